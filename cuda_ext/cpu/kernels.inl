// The per-splat and per-tile work of the CPU path. Included by level_*.cpp, which define AVATAR_NS, the scalar type and
// the vector width; nothing here may instantiate a function shared with other translation units (see config.h).
#include "../include/avatar/blending.h"
#include "jobs.h"
#include "simd.h"

namespace avatar {
namespace AVATAR_NS {

// ---------------------------------------------------------------------------------------------- projection

template <class S, int W> struct SplatBlock {  // W consecutive splats of one image, as vectors
    using V = Vec<S, W>;
    Camera<V> camera;
    Poses<V> poses;

    AVATAR_HD SplatBlock(const Scene<S>& scene, int image) {
        const S* k = scene.intrinsics;
        camera = {V(k[0]), V(k[1]), V(k[2]), V(k[3]), V(scene.width), V(scene.height)};
        const S* p = scene.poses + static_cast<size_t>(image) * 24;
        for (int i = 0; i < 12; ++i) {
            poses.head[i] = V(p[i]);
            poses.torso[i] = V(p[12 + i]);
        }
    }

    // Lanes beyond the last splat repeat it.
    AVATAR_HD Gaussian<V> load(const Scene<S>& scene, int image, int first, int count) const {
        alignas(64) S lanes[12][W];
        for (int l = 0; l < W; ++l) {
            const int n = first + (l < count ? l : count - 1);
            const size_t i = static_cast<size_t>(image) * scene.splats + n;
            for (int k = 0; k < 3; ++k) lanes[k][l] = scene.means[3 * i + k];
            for (int k = 0; k < 4; ++k) lanes[3 + k][l] = scene.quats[4 * i + k];
            for (int k = 0; k < 3; ++k) lanes[7 + k][l] = scene.log_scales[3 * i + k];
            lanes[10][l] = scene.opacity_logits[i];
            lanes[11][l] = scene.skin[n];
        }
        Gaussian<V> g;
        for (int k = 0; k < 3; ++k) g.mean[k] = V::load(lanes[k]);
        for (int k = 0; k < 4; ++k) g.quat[k] = V::load(lanes[3 + k]);
        for (int k = 0; k < 3; ++k) g.log_scale[k] = V::load(lanes[7 + k]);
        g.opacity_logit = V::load(lanes[10]);
        g.skin = V::load(lanes[11]);
        return g;
    }
};

// First pixel whose centre is at or right of `low`, last one at or left of `high`, within 0..side-1.
template <class S> AVATAR_HD void pixel_range(S low, S high, int side, int32_t& first, int32_t& last) {
    S a = low - S(0.5), b = high - S(0.5);
    a = a > S(0) ? (a < S(side) ? a : S(side)) : S(0);
    b = b < S(side - 1) ? (b > S(-1) ? b : S(-1)) : S(side - 1);
    first = static_cast<int32_t>(a);
    first += static_cast<S>(first) < a;
    last = static_cast<int32_t>(b + S(1)) - 1;
}

template <class S, int W> void project_chunk(const ProjectJob<S>& job, int chunk) {
    using V = Vec<S, W>;
    const Scene<S>& scene = job.scene;
    const int per_image = chunks_per_image(scene.splats), image = chunk / per_image;
    const int begin = (chunk % per_image) * kChunk;
    const int end = begin + kChunk < scene.splats ? begin + kChunk : scene.splats;
    const int stride = record_stride(scene.channels);
    const SplatBlock<S, W> block(scene, image);
    for (int first = begin; first < end; first += W) {
        const int count = end - first < W ? end - first : W;
        Projected<V> out;
        Mask<S, W> visible;
        project(block.load(scene, image, first, count), block.poses, block.camera, out, visible);
        alignas(64) S lanes[10][W];
        out.x.store(lanes[0]); out.y.store(lanes[1]); out.a.store(lanes[2]); out.b.store(lanes[3]);
        out.c.store(lanes[4]); out.log2_opacity.store(lanes[5]); (V(S(-0.5)) * out.b / out.a).store(lanes[6]);
        out.depth.store(lanes[7]); out.half_x.store(lanes[8]); out.half_y.store(lanes[9]);
        const uint32_t visible_bits = bits(visible);
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(image) * scene.splats + first + l;
            Box box{1, 1, 0, 0};
            const S x = lanes[0][l], y = lanes[1][l], hx = lanes[8][l], hy = lanes[9][l];
            // comparisons that are false for NaN come before any conversion to integer
            if ((visible_bits >> l & 1) && x + hx > S(0) && x - hx < S(scene.width) && y + hy > S(0) &&
                y - hy < S(scene.height)) {
                pixel_range(x - hx, x + hx, scene.width, box.x0, box.x1);
                pixel_range(y - hy, y + hy, scene.height, box.y0, box.y1);
                if (box.y1 < box.y0 || box.x1 < box.x0) box = {1, 1, 0, 0};
            }
            job.boxes[i] = box;
            job.depths[i] = lanes[7][l];
            S* record = job.records + i * stride;
            for (int k = 0; k < 7; ++k) record[k] = lanes[k][l];
            record[7] = S(0);
            for (int k = 0; k < stride - kRecordGeometry; ++k)
                record[kRecordGeometry + k] = k < scene.channels ? scene.colors[i * scene.channels + k] : S(0);
        }
    }
}

template <class S, int W, int C> void project_backward_chunk(const ProjectBackwardJob<S>& job, int chunk) {
    using V = Vec<S, W>;
    using Four = Vec<S, 4>;
    const Scene<S>& scene = job.scene;
    const int per_image = chunks_per_image(scene.splats), image = chunk / per_image;
    const int begin = (chunk % per_image) * kChunk;
    const int end = begin + kChunk < scene.splats ? begin + kChunk : scene.splats;
    const int stride = record_stride(C), channels = scene.channels;
    constexpr int partial = partial_stride(C);
    const SplatBlock<S, W> block(scene, image);
    V pose_sum[12], head_sum[12], camera_sum[4];
    for (int i = 0; i < 12; ++i) pose_sum[i] = head_sum[i] = V(0);
    for (int i = 0; i < 4; ++i) camera_sum[i] = V(0);

    for (int first = begin; first < end; first += W) {
        const int count = end - first < W ? end - first : W;
        // the partial sums are in tile order, so a splat's are scattered over memory: ask for the next block's now
        const size_t block_end = static_cast<size_t>(image) * scene.splats + first + count;
        const size_t next_end = static_cast<size_t>(image) * scene.splats + (first + 2 * W < end ? first + 2 * W : end);
        for (int32_t slot = job.slot_start[block_end]; slot < job.slot_start[next_end]; ++slot) {
            const size_t entry = job.slot_entry[slot];
            __builtin_prefetch(job.partials + entry * partial);
            __builtin_prefetch(job.partials + entry * partial + partial - 1);
            __builtin_prefetch(job.groups + entry);
        }
        alignas(64) S in[7][W] = {};  // the last one marks lanes with a gradient
        bool any = false;
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(image) * scene.splats + first + l;
            Four sums[partial / 4];
            for (int k = 0; k < partial / 4; ++k) sums[k] = Four(0);
            for (int32_t slot = job.slot_start[i]; slot < job.slot_start[i + 1]; ++slot) {
                const size_t entry = job.slot_entry[slot];
                if (!job.groups[entry]) continue;
                in[6][l] = S(1);
                for (int k = 0; k < partial / 4; ++k) sums[k] = sums[k] + Four::load(job.partials + entry * partial + 4 * k);
            }
            alignas(64) S total[partial];
            for (int k = 0; k < partial / 4; ++k) sums[k].store(total + 4 * k);
            any |= in[6][l] != S(0);
            for (int k = 0; k < channels; ++k) job.v_colors[i * channels + k] = total[kMoments + k];
            const S* r = job.records + i * stride;  // of invisible splats unspecified: only touched ones may use it
            const S ln2 = S(kLn2);
            for (int k = 0; k < kMoments; ++k) total[k] *= ln2;
            const bool touched = in[6][l] != S(0);
            in[0][l] = touched ? -(S(2) * r[2] * total[1] + r[3] * total[3]) : S(0);
            in[1][l] = touched ? -(S(2) * r[4] * total[3] + r[3] * total[1]) : S(0);
            in[2][l] = total[2];
            in[3][l] = total[4];
            in[4][l] = total[5];
            in[5][l] = total[0];
        }
        alignas(64) S out[12][W] = {};
        if (any) {
            const Gaussian<V> g = block.load(scene, image, first, count);
            const ProjectedGrad<V> v{V::load(in[0]), V::load(in[1]), V::load(in[2]), V::load(in[3]), V::load(in[4]), V::load(in[5])};
            Gaussian<V> v_g;
            V v_pose[12], v_camera[4];
            project_backward(g, block.poses, block.camera, v, v_g, v_pose, v_camera);
            // a splat without gradient may hold anything (behind the camera, infinite): its lane must not leak 0 * inf
            const Mask<S, W> used = less(V(0), V::load(in[6]));
            for (int i = 0; i < 12; ++i) {
                const V p = select(used, v_pose[i], V(0));
                pose_sum[i] = pose_sum[i] + p;
                head_sum[i] = head_sum[i] + select(used, p * g.skin, V(0));
            }
            for (int i = 0; i < 4; ++i) camera_sum[i] = camera_sum[i] + select(used, v_camera[i], V(0));
            for (int k = 0; k < 3; ++k) select(used, v_g.mean[k], V(0)).store(out[k]);
            for (int k = 0; k < 4; ++k) select(used, v_g.quat[k], V(0)).store(out[3 + k]);
            for (int k = 0; k < 3; ++k) select(used, v_g.log_scale[k], V(0)).store(out[7 + k]);
            select(used, v_g.opacity_logit, V(0)).store(out[10]);
            select(used, v_g.skin, V(0)).store(out[11]);
        }
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(image) * scene.splats + first + l;
            for (int k = 0; k < 3; ++k) job.v_means[3 * i + k] = out[k][l];
            for (int k = 0; k < 4; ++k) job.v_quats[4 * i + k] = out[3 + k][l];
            for (int k = 0; k < 3; ++k) job.v_log_scales[3 * i + k] = out[7 + k][l];
            job.v_opacity_logits[i] = out[10][l];
            job.v_skin[i] = out[11][l];
            if (job.v_mean2d) {
                job.v_mean2d[2 * i] = in[0][l];
                job.v_mean2d[2 * i + 1] = in[1][l];
            }
        }
    }
    S* sums = job.v_pose_chunks + static_cast<size_t>(chunk) * kPoseSums;
    for (int i = 0; i < 12; ++i) {
        S all = S(0), head = S(0);
        for (int l = 0; l < W; ++l) {
            all += pose_sum[i].lane(l);
            head += head_sum[i].lane(l);
        }
        sums[i] = head;
        sums[12 + i] = all - head;
    }
    for (int i = 0; i < 4; ++i) {
        S all = S(0);
        for (int l = 0; l < W; ++l) all += camera_sum[i].lane(l);
        sums[24 + i] = all;
    }
}

// ---------------------------------------------------------------------------------------------- blending

// A tile is cut into groups of one or two rows, one vector each. A splat's ellipse is convex, so the groups it reaches
// are consecutive.
template <class S, int W> struct Tile {
    using V = Vec<S, W>;
    static constexpr int kRowsPerGroup = W / kTileW, kGroups = kTileH / kRowsPerGroup, kRowBlocks = kTileH / W;
    static_assert(W == 8 || W == 16, "a vector is one or two rows of a tile");

    int image, x0, y0, width, height;  // width and height of the part inside the image
    V lane_x, lane_y;                  // pixel centres of the first group's lanes, px
    V row_y[kRowBlocks];               // pixel centres of all rows

    AVATAR_HD Tile(const Scene<S>& scene, const TileLists& lists, int tile) {
        const int tiles = lists.tiles_x * lists.tiles_y;
        image = tile / tiles;
        const int t = tile % tiles;
        x0 = t % lists.tiles_x * kTileW;
        y0 = t / lists.tiles_x * kTileH;
        width = scene.width - x0 < kTileW ? scene.width - x0 : kTileW;
        height = scene.height - y0 < kTileH ? scene.height - y0 : kTileH;
        alignas(64) S xs[W], ys[W], rows[kTileH];
        for (int l = 0; l < W; ++l) {
            xs[l] = S(x0 + l % kTileW) + S(0.5);
            ys[l] = S(y0 + l / kTileW) + S(0.5);
        }
        for (int r = 0; r < kTileH; ++r) rows[r] = S(y0 + r) + S(0.5);
        lane_x = V::load(xs);
        lane_y = V::load(ys);
        for (int k = 0; k < kRowBlocks; ++k) row_y[k] = V::load(rows + k * W);
    }

    AVATAR_HD size_t pixel(const Scene<S>& scene, int row, int column) const {
        return (static_cast<size_t>(image) * scene.height + y0 + row) * scene.width + x0 + column;
    }

    // Bit r: the splat can reach kAlphaMin somewhere on row r. Exact for the continuous row; the slack covers rounding.
    AVATAR_HD uint32_t reached_rows(const S* r) const {
        const V left{S(x0) + S(0.5) - r[0]}, right{S(x0 + kTileW) - S(0.5) - r[0]};
        const V y(r[1]), a(r[2]), b(r[3]), c(r[4]), o(r[5]), slope(r[6]), least(kLog2AlphaMin - 0.01);
        uint32_t rows = 0;
        for (int k = 0; k < kRowBlocks; ++k) {
            const V dy = row_y[k] - y;
            const V dx = minimum(maximum(slope * dy, left), right);  // the most opaque point of the row
            rows |= bits(at_least(o + dx * (a * dx + b * dy) + c * dy * dy, least)) << (k * W);
        }
        return rows;
    }
};

AVATAR_HD int lowest_bit(uint32_t mask) { return __builtin_ctz(mask); }
AVATAR_HD int highest_bit(uint32_t mask) { return 31 - __builtin_clz(mask); }

template <class S, int W, int C> void blend_tile(const BlendJob<S>& job, int index) {
    using V = Vec<S, W>;
    using T = Tile<S, W>;
    constexpr int kState = (1 + C) * W;  // of a group: transmittance, colours
    const Scene<S>& scene = job.scene;
    const T tile(scene, job.lists, index);
    const int stride = record_stride(C), channels = scene.channels;
    const int32_t begin = job.lists.tile_start[index], end = job.lists.tile_start[index + 1];

    alignas(64) S state[T::kGroups * kState];
    __builtin_memset(state, 0, sizeof state);
    for (int r = 0; r < tile.height; ++r)
        for (int x = 0; x < tile.width; ++x) state[r / T::kRowsPerGroup * kState + r % T::kRowsPerGroup * kTileW + x] = S(1);

    const V least{kLog2AlphaMin}, finished{kTransmittanceMin}, most{kAlphaMax};
    uint32_t open_rows = static_cast<uint32_t>((uint64_t(1) << tile.height) - 1);
    int32_t e = begin;
    for (; e < end && open_rows; ++e) {
        __builtin_prefetch(job.records + static_cast<size_t>(job.lists.splat[e + 6 < end ? e + 6 : e]) * stride);
        const S* r = job.records + static_cast<size_t>(job.lists.splat[e]) * stride;
        const uint32_t rows = tile.reached_rows(r) & open_rows;
        uint32_t added = 0;
        if (rows) {
            const int first = lowest_bit(rows) / T::kRowsPerGroup, last = highest_bit(rows) / T::kRowsPerGroup;
            const V dx = tile.lane_x - V(r[0]), c(r[4]);
            const V at_row = V(r[5]) + V(r[2]) * dx * dx, slope = V(r[3]) * dx;
            V color[C], dy = tile.lane_y + V(S(first * T::kRowsPerGroup) - r[1]);
            for (int k = 0; k < C; ++k) color[k] = V(r[kRecordGeometry + k]);
            S* group = state + first * kState;
            uint32_t bit = 1u << first;
            for (int n = last - first; n >= 0; --n) {
                const V p = log2_alpha(at_row, slope, c, dy);
                V t = V::load(group);
                const Mask<S, W> live = at_least(p, least) & at_least(t, finished);
                added |= bits(live) ? bit : 0;
                const V alpha = select(live, minimum(exponential2(p), most), V(0));
                const V weight = blend(alpha, t);
                t.store(group);
                for (int k = 0; k < C; ++k) (V::load(group + (1 + k) * W) + weight * color[k]).store(group + (1 + k) * W);
                dy = dy + V(T::kRowsPerGroup);
                group += kState;
                bit <<= 1;
            }
        }
        job.lists.groups[e] = static_cast<GroupMask>(added);
        if ((e - begin) % 16 == 15)
            for (int g = 0; g < T::kGroups; ++g)
                if (!bits(at_least(V::load(state + g * kState), finished)))
                    open_rows &= ~(((1u << T::kRowsPerGroup) - 1) << (g * T::kRowsPerGroup));
    }
    for (; e < end; ++e) job.lists.groups[e] = 0;

    for (int r = 0; r < tile.height; ++r)
        for (int x = 0; x < tile.width; ++x) {
            const size_t i = tile.pixel(scene, r, x);
            const S* s = state + r / T::kRowsPerGroup * kState + r % T::kRowsPerGroup * kTileW + x;
            const S* behind = scene.behind(tile.x0 + x, tile.y0 + r);
            for (int k = 0; k < channels; ++k)
                job.image[i * channels + k] = s[(1 + k) * W] + (behind && k < scene.background_channels ? s[0] * behind[k] : S(0));
            job.alpha[i] = S(1) - s[0];
        }
}

template <class S, int W, int C> void blend_backward_tile(const BlendJob<S>& job, int index) {
    using V = Vec<S, W>;
    using T = Tile<S, W>;
    constexpr int kState = (3 + C) * W;  // of a group: transmittance, loss behind, v_alpha, v_color
    const Scene<S>& scene = job.scene;
    const int32_t begin = job.lists.tile_start[index], end = job.lists.tile_start[index + 1];
    if (begin == end) return;
    const T tile(scene, job.lists, index);
    const int stride = record_stride(C), channels = scene.channels, partial = partial_stride(C);

    alignas(64) S state[T::kGroups * kState];
    __builtin_memset(state, 0, sizeof state);
    for (int r = 0; r < tile.height; ++r)
        for (int x = 0; x < tile.width; ++x) {
            const size_t i = tile.pixel(scene, r, x);
            S* s = state + r / T::kRowsPerGroup * kState + r % T::kRowsPerGroup * kTileW + x;
            // light that passes all splats shows the background: a gradient by alpha, and no part of what is behind a splat
            const S* behind = scene.behind(tile.x0 + x, tile.y0 + r);
            S v_alpha = job.v_alpha[i], total = S(0);
            for (int k = 0; k < channels; ++k) {
                const S v = job.v_image[i * channels + k];
                S own = job.image[i * channels + k];
                if (behind && k < scene.background_channels) {
                    own -= (S(1) - job.alpha[i]) * behind[k];
                    v_alpha -= v * behind[k];
                }
                s[(3 + k) * W] = v;
                total += own * v;
            }
            s[0] = S(1);
            s[W] = total + job.alpha[i] * v_alpha;
            s[2 * W] = v_alpha;
        }

    // the next tile is most often this thread's or its neighbour's next work, and its rows are too short for the
    // hardware's own prefetching
    if (tile.x0 + kTileW < scene.width)
        for (int r = 0; r < tile.height; ++r) {
            const size_t i = tile.pixel(scene, r, kTileW);
            __builtin_prefetch(job.v_alpha + i);
            __builtin_prefetch(job.alpha + i);
            for (int k = 0; k < kTileW * channels; k += 16) {
                __builtin_prefetch(job.image + i * channels + k);
                __builtin_prefetch(job.v_image + i * channels + k);
            }
        }

    const V least{kLog2AlphaMin}, finished{kTransmittanceMin}, most{kAlphaMax}, zero{0};
    for (int32_t e = begin; e < end; ++e) {
        __builtin_prefetch(job.records + static_cast<size_t>(job.lists.splat[e + 6 < end ? e + 6 : e]) * stride);
        const uint32_t groups = job.lists.groups[e];
        if (!groups) continue;
        const S* r = job.records + static_cast<size_t>(job.lists.splat[e]) * stride;
        const int first = lowest_bit(groups), last = highest_bit(groups);
        const V dx = tile.lane_x - V(r[0]), c(r[4]);
        const V at_row = V(r[5]) + V(r[2]) * dx * dx, slope = V(r[3]) * dx;
        V dy = tile.lane_y + V(S(first * T::kRowsPerGroup) - r[1]);
        V sum0 = zero, sum_y = zero, sum_yy = zero, v_c[C], color[C];
        for (int k = 0; k < C; ++k) {
            v_c[k] = zero;
            color[k] = V(r[kRecordGeometry + k]);
        }
        S* group = state + first * kState;
        for (int n = last - first; n >= 0; --n) {
            const V p = log2_alpha(at_row, slope, c, dy);
            V t = V::load(group);
            const Mask<S, W> live = at_least(p, least) & at_least(t, finished);
            const V raw = select(live, exponential2(p), zero), alpha = minimum(raw, most);
            V shade = V::load(group + 2 * W);
            const V before = t, weight = blend(alpha, t);
            t.store(group);
            for (int k = 0; k < C; ++k) {
                const V v = V::load(group + (3 + k) * W);
                shade = shade + v * color[k];
                v_c[k] = v_c[k] + weight * v;
            }
            V rest = V::load(group + W);
            const V v_p = select(less(raw, most), blend_backward(alpha, weight, before, shade, rest), zero);
            rest.store(group + W);
            const V v_y = v_p * dy;
            sum0 = sum0 + v_p;
            sum_y = sum_y + v_y;
            sum_yy = sum_yy + v_y * dy;
            dy = dy + V(T::kRowsPerGroup);
            group += kState;
        }
        const V sum_x = sum0 * dx;
        constexpr int kSums = kMoments + C, kPadded = (kSums + 7) / 8 * 8;
        Vec<S, 8> sums[kPadded];
        sums[0] = fold(sum0); sums[1] = fold(sum_x); sums[2] = fold(sum_x * dx);
        sums[3] = fold(sum_y); sums[4] = fold(sum_y * dx); sums[5] = fold(sum_yy);
        for (int k = 0; k < C; ++k) sums[kMoments + k] = fold(v_c[k]);
        for (int k = kSums; k < kPadded; ++k) sums[k] = Vec<S, 8>(0);
        S* out = job.partials + static_cast<size_t>(e) * partial;
        sum_each(sums).store(out);
        for (int k = 8; k < kSums; ++k) out[k] = sum(sums[k]);
    }
}

template <class S, int W> void blend_any(const BlendJob<S>& job, int tile) {
    switch (compiled_channels(job.scene.channels)) {
        case 1: return blend_tile<S, W, 1>(job, tile);
        case 3: return blend_tile<S, W, 3>(job, tile);
        case 4: return blend_tile<S, W, 4>(job, tile);
        default: return blend_tile<S, W, 8>(job, tile);
    }
}

template <class S, int W> void project_backward_any(const ProjectBackwardJob<S>& job, int chunk) {
    switch (compiled_channels(job.scene.channels)) {
        case 1: return project_backward_chunk<S, W, 1>(job, chunk);
        case 3: return project_backward_chunk<S, W, 3>(job, chunk);
        case 4: return project_backward_chunk<S, W, 4>(job, chunk);
        default: return project_backward_chunk<S, W, 8>(job, chunk);
    }
}

template <class S, int W> void blend_backward_any(const BlendJob<S>& job, int tile) {
    switch (compiled_channels(job.scene.channels)) {
        case 1: return blend_backward_tile<S, W, 1>(job, tile);
        case 3: return blend_backward_tile<S, W, 3>(job, tile);
        case 4: return blend_backward_tile<S, W, 4>(job, tile);
        default: return blend_backward_tile<S, W, 8>(job, tile);
    }
}

}  // namespace AVATAR_NS
}  // namespace avatar
