// Order of work of the CPU path: project, sort by depth, list splats per tile, blend; and back. Everything between the
// kernels (which know the instruction set) is here.
//
// Results do not depend on the number of threads: every unit of work writes to memory of its own, and sums over units
// are taken in a fixed order.
#include "rasterizer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "threads.h"

namespace avatar {

// ------------------------------------------------------------------------------------------------ workspace

// Uninitialised memory that only grows.
template <class T> class Scratch {
public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    ~Scratch() { release(); }
    T* get(size_t n) {
        if (n > capacity_) {
            release();
            capacity_ = n + n / 4;  // a growing scene must not reallocate at every step
            data_ = static_cast<T*>(::operator new(capacity_ * sizeof(T), std::align_val_t(64)));
        }
        return data_;
    }

private:
    void release() {
        if (data_) ::operator delete(data_, std::align_val_t(64));
        data_ = nullptr;
        capacity_ = 0;
    }
    T* data_ = nullptr;
    size_t capacity_ = 0;
};

struct Workspace {
    Scratch<Box> boxes;
    Scratch<unsigned char> depths, partials, pose_chunks, v_skin, v_mean2d, ssim, animate, weight_partials;
    Scratch<uint64_t> keys, keys_other;
    Scratch<int32_t> order, visible, histogram, slot_start;
    Scratch<double> bands;
};

namespace {
std::mutex workspace_guard;
std::vector<Workspace*>& idle_workspaces() {
    static auto* idle = new std::vector<Workspace*>;  // never destroyed: threads may still return one at exit
    return *idle;
}
}  // namespace

WorkspacePtr borrow_workspace() {
    std::lock_guard<std::mutex> lock(workspace_guard);
    auto& idle = idle_workspaces();
    Workspace* w = nullptr;
    if (idle.empty()) {
        w = new Workspace;
    } else {
        w = idle.back();
        idle.pop_back();
    }
    return WorkspacePtr(w, [](Workspace* done) {
        std::lock_guard<std::mutex> lock2(workspace_guard);
        idle_workspaces().push_back(done);
    });
}

ListLayout::ListLayout(int64_t batch, int64_t splats, int64_t tiles, int64_t entries) {
    tile_start = 0;
    slot_start = tile_start + batch * tiles + 1;
    splat = slot_start + batch * splats + 1;
    slot_entry = splat + entries;
    groups = slot_entry + entries;
    total = groups + (entries * static_cast<int64_t>(sizeof(GroupMask)) + 3) / 4;
}

// ------------------------------------------------------------------------------------------------ depth order

namespace {

struct Digits { uint32_t least; int bits; };

uint32_t depth_bits(float depth) {  // order of positive floats is the order of their bits
    uint32_t u;
    std::memcpy(&u, &depth, sizeof u);
    return u;
}

// Stable least-significant-digit sort of (key << 32 | index) by the low `bits` bits of the key.
void radix_sort(uint64_t*& a, uint64_t*& b, int64_t n, int bits) {
    constexpr int kDigit = 11;
    const int passes = (bits + kDigit - 1) / kDigit;
    int64_t counts[3][1 << kDigit];
    std::memset(counts, 0, sizeof(counts[0]) * static_cast<size_t>(passes));
    constexpr uint64_t mask = (1 << kDigit) - 1;
    for (int64_t i = 0; i < n; ++i)
        for (int p = 0; p < passes; ++p) ++counts[p][a[i] >> (32 + p * kDigit) & mask];
    for (int p = 0; p < passes; ++p) {
        int64_t at = 0;
        for (auto& c : counts[p]) {
            const int64_t size = c;
            c = at;
            at += size;
        }
        for (int64_t i = 0; i < n; ++i) b[counts[p][a[i] >> (32 + p * kDigit) & mask]++] = a[i];
        std::swap(a, b);
    }
}

// Writes the indices of the visible splats of one image, ordered by (layer, depth, index).
int64_t depth_order(const Box* boxes, const float* depths, const int32_t* layers, int64_t n, uint64_t* a, uint64_t* b, int32_t* order) {
    int64_t count = 0;
    uint32_t least = UINT32_MAX, most = 0;
    int32_t first_layer = INT32_MAX, last_layer = INT32_MIN;
    for (int64_t i = 0; i < n; ++i) {
        if (boxes[i].x1 < boxes[i].x0) continue;
        const uint32_t d = depth_bits(depths[i]);
        least = std::min(least, d);
        most = std::max(most, d);
        first_layer = std::min(first_layer, layers[i]);
        last_layer = std::max(last_layer, layers[i]);
        a[count++] = static_cast<uint64_t>(d) << 32 | static_cast<uint32_t>(i);
    }
    if (count == 0) return 0;
    int depth_width = 1;
    while (depth_width < 32 && (most - least) >> depth_width) ++depth_width;
    const int64_t layer_range = static_cast<int64_t>(last_layer) - first_layer;
    int layer_width = 0;
    while (layer_width < 33 && layer_range >> layer_width) ++layer_width;
    if (depth_width + layer_width <= 32) {
        for (int64_t i = 0; i < count; ++i) {
            const auto index = static_cast<uint32_t>(a[i]);
            const uint32_t layer = static_cast<uint32_t>(static_cast<int64_t>(layers[index]) - first_layer);
            const uint32_t key = static_cast<uint32_t>(a[i] >> 32) - least + (depth_width < 32 ? layer << depth_width : 0);
            a[i] = static_cast<uint64_t>(key) << 32 | index;
        }
        radix_sort(a, b, count, depth_width + layer_width);
        for (int64_t i = 0; i < count; ++i) order[i] = static_cast<int32_t>(static_cast<uint32_t>(a[i]));
    } else {  // layers or depths spread too far for one word
        for (int64_t i = 0; i < count; ++i) order[i] = static_cast<int32_t>(static_cast<uint32_t>(a[i]));
        std::stable_sort(order, order + count, [&](int32_t p, int32_t q) {
            return layers[p] != layers[q] ? layers[p] < layers[q] : depths[p] < depths[q];
        });
    }
    return count;
}

int64_t depth_order(const Box* boxes, const double* depths, const int32_t* layers, int64_t n, uint64_t*, uint64_t*, int32_t* order) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i)
        if (boxes[i].x1 >= boxes[i].x0) order[count++] = static_cast<int32_t>(i);
    std::stable_sort(order, order + count, [&](int32_t p, int32_t q) {
        return layers[p] != layers[q] ? layers[p] < layers[q] : depths[p] < depths[q];
    });
    return count;
}

struct TileRange { int x0, y0, x1, y1; };
TileRange tiles_of(const Box& b) { return {b.x0 / kTileW, b.y0 / kTileH, b.x1 / kTileW, b.y1 / kTileH}; }

// Splats of one image are split into this many runs (in depth order) so that listing them uses all threads.
int runs_per_image(int batch, int threads) { return std::max(1, (threads + batch - 1) / std::max(batch, 1)); }

}  // namespace

// ------------------------------------------------------------------------------------------------ forward

template <class S>
int64_t forward_project(const Scene<S>& scene, const int32_t* layers, S* records, int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    const int64_t n = scene.splats, all = n * scene.batch;
    Box* boxes = w.boxes.get(static_cast<size_t>(all));
    S* depths = reinterpret_cast<S*>(w.depths.get(static_cast<size_t>(all) * sizeof(S)));
    int32_t* slot_start = w.slot_start.get(static_cast<size_t>(all) + 1);
    int32_t* order = w.order.get(static_cast<size_t>(all));
    int32_t* visible = w.visible.get(static_cast<size_t>(scene.batch));
    const ProjectJob<S> job{scene, records, depths, boxes};
    parallel_for(static_cast<int64_t>(scene.batch) * chunks_per_image(scene.splats), threads,
                 [&](int64_t chunk, int) { kernels.project(job, static_cast<int>(chunk)); });

    uint64_t* keys = w.keys.get(static_cast<size_t>(all));
    uint64_t* keys_other = w.keys_other.get(static_cast<size_t>(all));
    int64_t entries = 0;
    parallel_for(scene.batch + 1, threads, [&](int64_t b, int) {
        if (b == 0) {  // one item counts while the others sort
            for (int64_t i = 0; i < all; ++i) {
                slot_start[i] = static_cast<int32_t>(entries);
                if (boxes[i].x1 < boxes[i].x0) continue;
                const TileRange t = tiles_of(boxes[i]);
                entries += static_cast<int64_t>(t.x1 - t.x0 + 1) * (t.y1 - t.y0 + 1);
            }
            return;
        }
        const int64_t at = (b - 1) * n;
        visible[b - 1] = static_cast<int32_t>(depth_order(boxes + at, depths + at, layers, n, keys + at, keys_other + at, order + at));
    });
    slot_start[all] = static_cast<int32_t>(entries);
    return entries;
}

template <class S>
void forward_blend(const Scene<S>& scene, const S* records, int32_t* lists, int64_t entries, S* image, S* alpha, int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    const int64_t n = scene.splats, all = n * scene.batch, tiles = tile_count(scene.width, scene.height);
    const int tiles_x = (scene.width + kTileW - 1) / kTileW, tiles_y = (scene.height + kTileH - 1) / kTileH;
    const ListLayout layout(scene.batch, n, tiles, entries);
    int32_t* tile_start = lists + layout.tile_start;
    int32_t* splat = lists + layout.splat;
    int32_t* slot_entry = lists + layout.slot_entry;
    int32_t* slot_start = lists + layout.slot_start;
    std::memcpy(slot_start, w.slot_start.get(0), sizeof(int32_t) * static_cast<size_t>(all + 1));
    const Box* boxes = w.boxes.get(0);
    const int32_t *order = w.order.get(0), *visible = w.visible.get(0);

    if (entries % 2) lists[layout.total - 1] = 0;  // the unused half of the last word: outputs are the same bits every time

    // counting sort by tile; splats are visited in depth order, so every tile's list is in depth order
    const int runs = runs_per_image(scene.batch, threads);
    int32_t* histogram = w.histogram.get(static_cast<size_t>(scene.batch * runs * tiles));
    auto for_run = [&](int64_t item, auto&& visit) {  // visit(tile, splat's slot, splat)
        const int64_t b = item / runs, r = item % runs;
        for (int64_t k = visible[b] * r / runs; k < visible[b] * (r + 1) / runs; ++k) {
            const int64_t i = b * n + order[b * n + k];
            const TileRange t = tiles_of(boxes[i]);
            int32_t slot = slot_start[i];
            for (int y = t.y0; y <= t.y1; ++y)
                for (int x = t.x0; x <= t.x1; ++x) visit(static_cast<int64_t>(y) * tiles_x + x, slot++, i);
        }
    };
    parallel_for(scene.batch * runs, threads, [&](int64_t item, int) {
        int32_t* h = histogram + item * tiles;
        std::memset(h, 0, sizeof(int32_t) * static_cast<size_t>(tiles));
        for_run(item, [&](int64_t tile, int32_t, int64_t) { ++h[tile]; });
    });
    int32_t at = 0;
    for (int64_t b = 0; b < scene.batch; ++b)
        for (int64_t t = 0; t < tiles; ++t) {
            tile_start[b * tiles + t] = at;
            for (int r = 0; r < runs; ++r) {
                int32_t& h = histogram[(b * runs + r) * tiles + t];
                const int32_t size = h;
                h = at;
                at += size;
            }
        }
    tile_start[scene.batch * tiles] = at;
    parallel_for(scene.batch * runs, threads, [&](int64_t item, int) {
        int32_t* h = histogram + item * tiles;
        for_run(item, [&](int64_t tile, int32_t slot, int64_t i) {
            const int32_t entry = h[tile]++;
            splat[entry] = static_cast<int32_t>(i);
            slot_entry[slot] = entry;
        });
    });

    const BlendJob<S> job{scene, {tiles_x, tiles_y, tile_start, splat, reinterpret_cast<GroupMask*>(lists + layout.groups)},
                          records, image, alpha, nullptr, nullptr, nullptr};
    parallel_for(scene.batch * tiles, threads, [&](int64_t tile, int) { kernels.blend(job, static_cast<int>(tile)); });
}

// ------------------------------------------------------------------------------------------------ backward

namespace {
// What shows through every image adds up.
template <class S> void background_gradient(const Scene<S>& scene, const S* alpha, const S* v_image, S* out, int threads) {
    const int64_t pixels = static_cast<int64_t>(scene.width) * scene.height;
    parallel_for(scene.height, threads, [&](int64_t row, int) {
        for (int64_t i = row * scene.width; i < (row + 1) * scene.width; ++i)
            for (int k = 0; k < scene.background_channels; ++k) {
                S sum = S(0);
                for (int64_t b = 0; b < scene.batch; ++b)
                    sum += (S(1) - alpha[b * pixels + i]) * v_image[(b * pixels + i) * scene.channels + k];
                out[i * scene.background_channels + k] = sum;
            }
    });
}
}  // namespace

template <class S>
void backward(const Scene<S>& scene, const S* records, int32_t* lists, S* image, S* alpha, const S* v_image,
              const S* v_alpha, const Gradients<S>& out, int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    const int64_t n = scene.splats, all = n * scene.batch, tiles = tile_count(scene.width, scene.height);
    const int tiles_x = (scene.width + kTileW - 1) / kTileW, tiles_y = (scene.height + kTileH - 1) / kTileH;
    const int64_t entries = lists[scene.batch * tiles];  // the end of tile_start
    const ListLayout layout(scene.batch, n, tiles, entries);
    auto* groups = reinterpret_cast<GroupMask*>(lists + layout.groups);
    S* partials = reinterpret_cast<S*>(
        w.partials.get(static_cast<size_t>(entries * partial_stride(scene.channels)) * sizeof(S)));
    const BlendJob<S> job{scene, {tiles_x, tiles_y, lists + layout.tile_start, lists + layout.splat, groups},
                          records, image, alpha, v_image, v_alpha, partials};
    parallel_for(scene.batch * tiles, threads, [&](int64_t tile, int) { kernels.blend_backward(job, static_cast<int>(tile)); });

    const int chunks = chunks_per_image(scene.splats);
    S* pose_chunks = reinterpret_cast<S*>(w.pose_chunks.get(static_cast<size_t>(scene.batch) * chunks * kPoseSums * sizeof(S)));
    S* v_skin = reinterpret_cast<S*>(w.v_skin.get(static_cast<size_t>(all) * sizeof(S)));
    S* v_mean2d = out.sink ? reinterpret_cast<S*>(w.v_mean2d.get(static_cast<size_t>(all) * 2 * sizeof(S))) : nullptr;
    const int32_t* slot_start = lists + layout.slot_start;
    const ProjectBackwardJob<S> pjob{scene, records, partials, groups, slot_start, lists + layout.slot_entry, out.means, out.quats,
                                     out.log_scales, out.opacity_logits, out.colors, v_skin, pose_chunks, v_mean2d};
    parallel_for(static_cast<int64_t>(scene.batch) * chunks, threads,
                 [&](int64_t chunk, int) { kernels.project_backward(pjob, static_cast<int>(chunk)); });

    double v_camera[4] = {};
    for (int64_t b = 0; b < scene.batch; ++b) {
        double sums[kPoseSums] = {};
        for (int64_t c = 0; c < chunks; ++c)
            for (int k = 0; k < kPoseSums; ++k) sums[k] += static_cast<double>(pose_chunks[(b * chunks + c) * kPoseSums + k]);
        for (int k = 0; k < 24; ++k) out.poses[b * 24 + k] = static_cast<S>(sums[k]);
        for (int k = 0; k < 4; ++k) v_camera[k] += sums[24 + k];
    }
    for (int k = 0; k < 4; ++k) out.intrinsics[k] = static_cast<S>(v_camera[k]);
    for (int64_t i = 0; i < n; ++i) {
        S total = S(0);
        for (int64_t b = 0; b < scene.batch; ++b) total += v_skin[b * n + i];
        out.skin[i] = total;
    }
    if (out.background) background_gradient(scene, alpha, v_image, out.background, threads);
    if (!out.sink) return;
    for (int64_t i = 0; i < n; ++i) {
        S norm = S(0), seen = S(0);
        for (int64_t b = 0; b < scene.batch; ++b) {
            const int64_t j = b * n + i;
            norm += std::sqrt(v_mean2d[2 * j] * v_mean2d[2 * j] + v_mean2d[2 * j + 1] * v_mean2d[2 * j + 1]);
            seen += slot_start[j + 1] > slot_start[j] ? S(1) : S(0);
        }
        out.sink[2 * i] = norm;
        out.sink[2 * i + 1] = seen;
    }
}

// ------------------------------------------------------------------------------------------------ motion bases

template <class S> void animate(const AnimateJob<S>& job, int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    const size_t each = static_cast<size_t>(job.batch) * kAnimateChunk * kAttributes;
    S* scratch = reinterpret_cast<S*>(w.animate.get(each * static_cast<size_t>(threads) * sizeof(S)));
    parallel_for(animate_chunks(job.branch.count), threads,
                 [&](int64_t chunk, int worker) { kernels.animate(job, static_cast<int>(chunk), scratch + each * static_cast<size_t>(worker)); });
}

template <class S> void animate_backward(const AnimateBackwardJob<S>& given, int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    AnimateBackwardJob<S> job = given;
    const size_t each = static_cast<size_t>(job.batch) * kAnimateChunk * kAttributes;
    const int chunks = animate_chunks(job.branch.count), weights = job.batch * job.branch.basis_count;
    S* scratch = reinterpret_cast<S*>(w.animate.get(each * static_cast<size_t>(threads) * sizeof(S)));
    job.weight_partials = reinterpret_cast<S*>(w.weight_partials.get(static_cast<size_t>(chunks) * static_cast<size_t>(weights) * sizeof(S)));
    parallel_for(chunks, threads, [&](int64_t chunk, int worker) {
        kernels.animate_backward(job, static_cast<int>(chunk), scratch + each * static_cast<size_t>(worker));
    });
    for (int i = 0; i < weights; ++i) {
        double sum = 0;
        for (int c = 0; c < chunks; ++c) sum += static_cast<double>(job.weight_partials[static_cast<int64_t>(c) * weights + i]);
        job.out.weights[i] = static_cast<S>(sum);
    }
}

// ------------------------------------------------------------------------------------------------ view-dependent colours

template <class S> void sh_colors(const ShJob<S>& job, int threads) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    parallel_for(static_cast<int64_t>(job.batch) * chunks_per_image(job.splats), threads,
                 [&](int64_t chunk, int) { kernels.sh(job, static_cast<int>(chunk)); });
}

template <class S>
void sh_colors_backward(const ShJob<S>& job, const S* v_colors, const ShGradients<S>& out, int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    const int chunks = chunks_per_image(job.splats);
    const size_t all = static_cast<size_t>(job.batch) * static_cast<size_t>(job.splats);
    S* v_skin = reinterpret_cast<S*>(w.v_skin.get(all * sizeof(S)));
    S* factors = reinterpret_cast<S*>(w.partials.get(all * 4 * sizeof(S)));
    S* pose_chunks = reinterpret_cast<S*>(w.pose_chunks.get(static_cast<size_t>(job.batch) * chunks * 24 * sizeof(S)));
    const ShBackwardJob<S> backward{job, v_colors, out.means, v_skin, factors, pose_chunks};
    parallel_for(static_cast<int64_t>(job.batch) * chunks, threads,
                 [&](int64_t chunk, int) { kernels.sh_backward(backward, static_cast<int>(chunk)); });
    for (int b = 0; b < job.batch; ++b)
        for (int k = 0; k < 24; ++k) {
            double sum = 0;
            for (int c = 0; c < chunks; ++c) sum += static_cast<double>(pose_chunks[(static_cast<size_t>(b) * chunks + c) * 24 + k]);
            out.poses[b * 24 + k] = static_cast<S>(sum);
        }
    parallel_for(job.splats, threads, [&](int64_t n, int) {
        S* v_sh = out.sh + n * job.terms * job.channels;
        std::fill(v_sh, v_sh + job.terms * job.channels, S(0));
        out.skin[n] = S(0);
        for (int64_t b = 0; b < job.batch; ++b) {
            const int64_t i = b * job.splats + n;
            out.skin[n] += v_skin[i];
            for (int t = 0; t < job.terms; ++t)
                for (int c = 0; c < job.channels; ++c) v_sh[t * job.channels + c] += factors[i * 4 + t] * v_colors[i * job.channels + c];
        }
    });
}

// ------------------------------------------------------------------------------------------------ image loss

template <class S>
void l1_ssim(const S* image, const S* target, const S* weights, int batch, int height, int width, int channels, S* v_image,
             double sums[2], int threads, Workspace& w) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    const int64_t bands = static_cast<int64_t>(batch) * bands_per_image(height);
    const size_t per_thread = ssim_scratch(width, channels);
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, bands)));
    S* scratch = reinterpret_cast<S*>(w.ssim.get(per_thread * static_cast<size_t>(threads) * sizeof(S)));
    double* band_sums = w.bands.get(static_cast<size_t>(2 * bands));
    const SsimJob<S> job{image, target, weights, batch, height, width, channels, v_image, band_sums};
    parallel_for(bands, threads,
                 [&](int64_t band, int worker) { kernels.ssim(job, static_cast<int>(band), scratch + per_thread * static_cast<size_t>(worker)); });
    sums[0] = sums[1] = 0;
    for (int64_t i = 0; i < bands; ++i) {
        sums[0] += band_sums[2 * i];
        sums[1] += band_sums[2 * i + 1];
    }
}

template <class S>
void l1_ssim_backward(const S* image, const S* target, const S* weights, const S* v_ssim_image, int64_t pixels, int channels, S v_l1,
                      S v_ssim, S* v_image, int threads) {
    const auto& kernels = choose_kernels(static_cast<const S*>(nullptr));
    constexpr int64_t kRun = 1 << 14;
    const LossBackwardJob<S> job{image, target, weights, v_ssim_image, channels, v_l1, v_ssim, v_image};
    parallel_for((pixels + kRun - 1) / kRun, threads,
                 [&](int64_t run, int) { kernels.l1_ssim_backward(job, run * kRun, std::min(pixels, (run + 1) * kRun)); });
}

#define AVATAR_INSTANTIATE(S)                                                                                              \
    template int64_t forward_project<S>(const Scene<S>&, const int32_t*, S*, int, Workspace&);                            \
    template void forward_blend<S>(const Scene<S>&, const S*, int32_t*, int64_t, S*, S*, int, Workspace&);                 \
    template void backward<S>(const Scene<S>&, const S*, int32_t*, S*, S*, const S*, const S*, const Gradients<S>&, int, \
                              Workspace&);                                                                                 \
    template void animate<S>(const AnimateJob<S>&, int, Workspace&);                                                       \
    template void animate_backward<S>(const AnimateBackwardJob<S>&, int, Workspace&);                                      \
    template void sh_colors<S>(const ShJob<S>&, int);                                                                      \
    template void sh_colors_backward<S>(const ShJob<S>&, const S*, const ShGradients<S>&, int, Workspace&);                \
    template void l1_ssim<S>(const S*, const S*, const S*, int, int, int, int, S*, double*, int, Workspace&);              \
    template void l1_ssim_backward<S>(const S*, const S*, const S*, const S*, int64_t, int, S, S, S*, int);
AVATAR_INSTANTIATE(float)
AVATAR_INSTANTIATE(double)

}  // namespace avatar
