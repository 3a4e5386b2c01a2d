// Splats to pixels, front to back, and the gradient. Block = tile of 16 x 16 px, warp = part of 8 x 4 px.
//
// A block walks through the splats of its cell in rounds: it gathers the next splats whose box holds the tile, loads
// their records into shared memory and tests each exactly against the eight parts (the largest alpha that it can have
// there); every warp then visits only the splats that reach its own part.
#include "kernels.h"

namespace avatar::gpu {

namespace {

constexpr int kPartW = 8, kPartH = 4;

template <int C> struct Stage {
    static constexpr int kStride = kRecordGeometry + (C <= 3 ? 4 : 8);
    float records[kBlock * kStride];
    int splat[kBlock];
    unsigned char parts[kBlock];
    int scan[kWarps + 1];
};

// log2 of the largest alpha that a splat can have on pixel centres within [left, right] x [top, bottom] (relative to
// its own centre): the quadratic form is concave, so the maximum lies at the centre or on a side that faces it.
__device__ float most_opaque(const float* r, float left, float top, float right, float bottom) {
    const float a = r[2], b = r[3], c = r[4], o = r[5];
    const float x = fminf(fmaxf(0.0f, left), right), y = fminf(fmaxf(0.0f, top), bottom);
    const float along_x = fminf(fmaxf(-0.5f * b / a * y, left), right), along_y = fminf(fmaxf(-0.5f * b / c * x, top), bottom);
    const float on_row = o + along_x * (a * along_x + b * y) + c * y * y, on_column = o + x * (a * x + b * along_y) + c * along_y * along_y;
    return fmaxf(on_row, on_column);
}

__device__ unsigned parts_reached(const float* r, int tile_x, int tile_y) {
    unsigned parts = 0;
    for (int p = 0; p < kWarps; ++p) {
        const float left = static_cast<float>(tile_x * kTile + p % 2 * kPartW) + 0.5f - r[0];
        const float top = static_cast<float>(tile_y * kTile + p / 2 * kPartH) + 0.5f - r[1];
        const float most = most_opaque(r, left, top, left + (kPartW - 1), top + (kPartH - 1));
        parts |= static_cast<unsigned>(most >= static_cast<float>(kLog2AlphaMin) - 0.01f) << p;  // the slack covers rounding
    }
    return parts;
}

// The splats of one tile in rounds of up to kBlock. Every member is called by all threads of the block together.
template <int C> struct TileWalk {
    const Scene& scene;
    const Buffers& in;
    Stage<C>& stage;
    int frame, tile_x, tile_y, words, next_word;
    const uint32_t* masks;
    uint32_t pending;  // of this thread's word: splats in the tile that were not visited yet
    int before, left;  // splats of the current words in front of this thread's, and not yet visited in all

    __device__ TileWalk(const Scene& scene_, const Buffers& in_, Stage<C>& stage_, const Cells& cells)
        : scene(scene_), in(in_), stage(stage_), next_word(0), pending(0), before(0), left(0) {
        frame = static_cast<int>(blockIdx.y);
        const int columns = (scene.width + kTile - 1) / kTile;
        tile_x = static_cast<int>(blockIdx.x) % columns;
        tile_y = static_cast<int>(blockIdx.x) / columns;
        words = (scene.splats + 31) / 32;
        const int cell = tile_y / cells.tiles * cells.columns + tile_x / cells.tiles;
        masks = in.masks + (static_cast<int64_t>(frame) * cells.columns * cells.rows + cell) * words;
    }

    // Loads the next splats into `stage`; returns how many, 0 at the end.
    __device__ int load() {
        while (left == 0) {
            if (next_word >= words) return 0;
            scan_words();
        }
        const int64_t base = static_cast<int64_t>(frame) * scene.splats;
        const int word = next_word - kBlock + static_cast<int>(threadIdx.x);
        int at = before;
        while (pending && at < kBlock) {
            const int bit = __ffs(static_cast<int>(pending)) - 1;
            pending &= pending - 1;
            stage.splat[at++] = in.order[base + word * 32 + bit];
        }
        before = at < kBlock ? 0 : at - kBlock;  // what still lies in front of this thread's remaining splats
        const int count = left < kBlock ? left : kBlock;
        left -= count;
        __syncthreads();
        constexpr int stride = Stage<C>::kStride;
        for (int i = static_cast<int>(threadIdx.x); i < count * stride; i += kBlock)
            stage.records[i] = in.records[(base + stage.splat[i / stride]) * stride + i % stride];
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < count)
            stage.parts[threadIdx.x] = static_cast<unsigned char>(parts_reached(stage.records + threadIdx.x * stride, tile_x, tile_y));
        __syncthreads();
        return count;
    }

private:
    __device__ void scan_words() {
        const int64_t base = static_cast<int64_t>(frame) * scene.splats;
        const int word = next_word + static_cast<int>(threadIdx.x);
        pending = 0;
        for (uint32_t bits = word < words ? masks[word] : 0; bits; bits &= bits - 1) {
            const uint32_t lowest = bits & (0u - bits);
            const uint16_t* box = in.boxes + 4 * (base + in.order[base + word * 32 + __popc(lowest - 1)]);
            if (box[0] <= tile_x && tile_x <= box[2] && box[1] <= tile_y && tile_y <= box[3]) pending |= lowest;
        }
        next_word += kBlock;
        before = block_prefix_sum(__popc(pending), stage.scan, left);
    }
};

struct Pixel {
    int x, y, part;
    bool inside;
    int64_t index;  // of the pixel among all frames'
};

__device__ Pixel pixel_of(const Scene& scene, int tile_x, int tile_y, int frame) {
    const int lane = static_cast<int>(threadIdx.x) % 32, part = static_cast<int>(threadIdx.x) / 32;
    Pixel p;
    p.part = part;
    p.x = tile_x * kTile + part % 2 * kPartW + lane % kPartW;
    p.y = tile_y * kTile + part / 2 * kPartH + lane / kPartW;
    p.inside = p.x < scene.width && p.y < scene.height;
    p.index = (static_cast<int64_t>(frame) * scene.height + p.y) * scene.width + p.x;
    return p;
}

template <int C> __global__ void __launch_bounds__(kBlock) blend_tile(Scene scene, Buffers in, Cells cells) {
    __shared__ Stage<C> stage;
    TileWalk<C> walk(scene, in, stage, cells);
    const Pixel pixel = pixel_of(scene, walk.tile_x, walk.tile_y, walk.frame);
    const float x = static_cast<float>(pixel.x) + 0.5f, y = static_cast<float>(pixel.y) + 0.5f;
    const float least = static_cast<float>(kLog2AlphaMin), finished = static_cast<float>(kTransmittanceMin), most = static_cast<float>(kAlphaMax);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float transmittance = pixel.inside ? 1.0f : 0.0f, color[C];
    for (int c = 0; c < C; ++c) color[c] = 0.0f;
    for (int count = walk.load(); count; count = walk.load()) {
        for (int first = 0; first < count; first += 32) {
            const bool mine = first + lane < count && (stage.parts[first + lane] >> pixel.part & 1);
            unsigned todo = __ballot_sync(kFullWarp, mine);
            if (!__any_sync(kFullWarp, transmittance >= finished)) break;
            for (; todo; todo &= todo - 1) {
                const float* r = stage.records + (first + __ffs(static_cast<int>(todo)) - 1) * Stage<C>::kStride;
                const float dx = x - r[0];
                const float p = scalar::log2_alpha(r[5] + r[2] * dx * dx, r[3] * dx, r[4], y - r[1]);
                if (p < least || transmittance < finished) continue;
                const float weight = scalar::blend(fminf(scalar::exponential2(p), most), transmittance);
                for (int c = 0; c < C; ++c) color[c] += weight * r[kRecordGeometry + c];
            }
        }
        if (!__syncthreads_or(transmittance >= finished)) break;
    }
    if (!pixel.inside) return;
    const int channels = scene.colors + scene.coverage;
    const float* const behind = scene.background ? scene.background + (static_cast<int64_t>(pixel.y) * scene.width + pixel.x) * scene.colors : nullptr;
    for (int c = 0; c < C; ++c) {
        if (c >= channels) break;
        const float under = behind && c < scene.colors ? transmittance * behind[c] : 0.0f;
        in.image[pixel.index * channels + c] = color[c] + under;
    }
    in.alpha[pixel.index] = 1.0f - transmittance;
}

// Adds a splat's sums over the warp's part: to the splat itself, or (deterministic) in shared memory, where the block
// adds its warps in order before it writes them to the splat's own place for this tile.
template <int C, bool kOrdered> __global__ void __launch_bounds__(kBlock) blend_tile_backward(Scene scene, Buffers in, Gradients g, Cells cells) {
    __shared__ Stage<C> stage;
    __shared__ float sums[kOrdered ? kWarps : 1][kOrdered ? 32 : 1][kSums];
    TileWalk<C> walk(scene, in, stage, cells);
    const Pixel pixel = pixel_of(scene, walk.tile_x, walk.tile_y, walk.frame);
    const int channels = scene.colors + scene.coverage, lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t base = static_cast<int64_t>(walk.frame) * scene.splats;
    const float x = static_cast<float>(pixel.x) + 0.5f, y = static_cast<float>(pixel.y) + 0.5f;
    const float least = static_cast<float>(kLog2AlphaMin), finished = static_cast<float>(kTransmittanceMin), most = static_cast<float>(kAlphaMax);
    float transmittance = pixel.inside ? 1.0f : 0.0f, v_alpha = 0.0f, behind = 0.0f, v_color[C];
    for (int c = 0; c < C; ++c) v_color[c] = 0.0f;
    if (pixel.inside) {
        // light that passes every splat shows the background: gradient by alpha, and not part of what lies behind a splat
        const float alpha = in.alpha[pixel.index];
        v_alpha = g.v_alpha ? g.v_alpha[pixel.index] : 0.0f;
        const float* const under = scene.background ? scene.background + (static_cast<int64_t>(pixel.y) * scene.width + pixel.x) * scene.colors : nullptr;
        for (int c = 0; c < C; ++c) {
            if (c >= channels) break;
            v_color[c] = g.v_image[pixel.index * channels + c];
            float own = in.image[pixel.index * channels + c];
            if (under && c < scene.colors) {
                own -= (1.0f - alpha) * under[c];
                v_alpha -= v_color[c] * under[c];
            }
            behind += own * v_color[c];
        }
        behind += alpha * v_alpha;
    }
    for (int count = walk.load(); count; count = walk.load()) {
        for (int first = 0; first < count; first += 32) {
            const bool mine = first + lane < count && (stage.parts[first + lane] >> pixel.part & 1);
            unsigned todo = __ballot_sync(kFullWarp, mine);
            if (kOrdered) {
                float* const flat = &sums[0][0][0];
                for (int i = static_cast<int>(threadIdx.x); i < kWarps * 32 * kSums; i += kBlock) flat[i] = 0.0f;
                __syncthreads();
            }
            if (!__any_sync(kFullWarp, transmittance >= finished)) todo = 0;
            for (; todo; todo &= todo - 1) {
                const int j = first + __ffs(static_cast<int>(todo)) - 1;
                const float* r = stage.records + j * Stage<C>::kStride;
                const float dx = x - r[0], dy = y - r[1];
                const float p = scalar::log2_alpha(r[5] + r[2] * dx * dx, r[3] * dx, r[4], dy);
                const bool live = p >= least && transmittance >= finished;
                if (!__any_sync(kFullWarp, live)) continue;
                float v[kSums];
                for (int i = 0; i < kSums; ++i) v[i] = 0.0f;
                if (live) {
                    const float raw = scalar::exponential2(p), alpha = fminf(raw, most), passed = transmittance;
                    const float weight = scalar::blend(alpha, transmittance);
                    float shade = v_alpha;
                    for (int c = 0; c < C; ++c) {
                        shade += v_color[c] * r[kRecordGeometry + c];
                        v[kMoments + c] = weight * v_color[c];
                    }
                    const float v_any = scalar::blend_backward(alpha, weight, passed, shade, behind), v_p = raw < most ? v_any : 0.0f;
                    v[0] = v_p;
                    v[1] = v_p * dx;
                    v[2] = v_p * dx * dx;
                    v[3] = v_p * dy;
                    v[4] = v_p * dx * dy;
                    v[5] = v_p * dy * dy;
                }
                warp_sums(v);
                if (lane % 2) continue;
                if (kOrdered)
                    sums[pixel.part][j - first][lane / 2] = v[0];
                else if (lane / 2 < kMoments + C)
                    atomicAdd(g.sums + (base + stage.splat[j]) * kSums + lane / 2, v[0]);
            }
            if (kOrdered) {
                __syncthreads();
                const int here = count - first < 32 ? count - first : 32;
                for (int i = static_cast<int>(threadIdx.x); i < here * kSums; i += kBlock) {
                    const int64_t splat = base + stage.splat[first + i / kSums];
                    const uint16_t* box = in.boxes + 4 * splat;
                    const int slot = (walk.tile_y - box[1]) * (box[2] - box[0] + 1) + walk.tile_x - box[0];
                    float sum = 0.0f;
                    for (int w = 0; w < kWarps; ++w) sum += sums[w][i / kSums][i % kSums];
                    g.partials[(g.slot_start[splat] + slot) * kSums + i % kSums] = sum;
                }
                __syncthreads();
            }
        }
        // the ordered variant must reach every splat of the tile: it writes zeros where nothing is seen
        const bool open = __syncthreads_or(transmittance >= finished);
        if (!open && !kOrdered) break;
    }
}

// Thread = colour of a background pixel: what reaches it through every frame.
__global__ void __launch_bounds__(kBlock) background_gradient(Scene scene, Buffers in, Gradients g) {
    const int64_t pixels = static_cast<int64_t>(scene.height) * scene.width, at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
    if (at >= pixels * scene.colors) return;
    const int64_t pixel = at / scene.colors;
    const int channels = scene.colors + scene.coverage, c = static_cast<int>(at % scene.colors);
    float sum = 0.0f;
    for (int frame = 0; frame < scene.batch; ++frame) {
        const int64_t i = frame * pixels + pixel;
        sum += (1.0f - in.alpha[i]) * g.v_image[i * channels + c];
    }
    g.background[at] = sum;
}

dim3 tile_grid(const Scene& scene) {
    const int columns = (scene.width + kTile - 1) / kTile, rows = (scene.height + kTile - 1) / kTile;
    return dim3(static_cast<unsigned>(columns * rows), static_cast<unsigned>(scene.batch));
}

}  // namespace

void blend_tiles(const Scene& scene, const Buffers& buffers, cudaStream_t stream) {
    const Cells cells = cells_of(scene.width, scene.height);
    const bool small = compiled_channels(scene.colors + scene.coverage) == 3;
    launch(small ? blend_tile<3> : blend_tile<8>, tile_grid(scene), kBlock, stream, scene, buffers, cells);
}

void blend_tiles_backward(const Scene& scene, const Buffers& buffers, const Gradients& g, cudaStream_t stream) {
    const Cells cells = cells_of(scene.width, scene.height);
    const bool small = compiled_channels(scene.colors + scene.coverage) == 3;
    const int64_t size = static_cast<int64_t>(scene.batch) * scene.splats * kSums;
    if (g.slot_start) {
        launch(small ? blend_tile_backward<3, true> : blend_tile_backward<8, true>, tile_grid(scene), kBlock, stream, scene, buffers, g, cells);
    } else {
        cudaMemsetAsync(g.sums, 0, static_cast<size_t>(size) * sizeof(float), stream);
        launch(small ? blend_tile_backward<3, false> : blend_tile_backward<8, false>, tile_grid(scene), kBlock, stream, scene, buffers, g, cells);
    }
    if (g.background)
        launch(background_gradient, dim3(blocks_for(static_cast<int64_t>(scene.height) * scene.width * scene.colors)), kBlock, stream, scene, buffers, g);
}

}  // namespace avatar::gpu
