// What the parts of the CUDA path share.
#pragma once
#include "../include/avatar/blending.h"
#include "../include/avatar/ssim.h"
#include "api.h"
#include "simt.h"

namespace avatar::gpu {

constexpr int kDepthBits = 28;
constexpr unsigned kDepthEnd = 1u << kDepthBits;  // sort_key in animate.cu; the last value is for invisible splats

// Both poses of a frame, (2, 3, 4).
__device__ inline void load_poses(const float* source, scalar::Poses<float>& poses) {
    for (int i = 0; i < 12; ++i) {
        poses.head[i] = source[i];
        poses.torso[i] = source[12 + i];
    }
}

void animate_and_project(const Scene& scene, const Buffers& out, cudaStream_t stream);
int animate_blocks(int count);
void project_and_animate_backward(const Scene& scene, const Buffers& in, const Gradients& g, cudaStream_t stream);

cudaError_t sort_and_mark(const Scene& scene, const Buffers& buffers, cudaStream_t stream);
cudaError_t find_slots(const Scene& scene, const Buffers& buffers, int32_t* counts, int32_t* slot_start, cudaStream_t stream);
int64_t sort_bytes(int64_t splats, int batch);

// The image is divided into square cells of 4 x 4 tiles or more, at most kMaxCells of them.
constexpr int kMaxCells = 1024;
struct Cells {
    int tiles, columns, rows;  // tiles along a cell's side
};
inline Cells cells_of(int width, int height) {
    const int tx = (width + kTile - 1) / kTile, ty = (height + kTile - 1) / kTile;
    int side = 4;
    while (((tx + side - 1) / side) * ((ty + side - 1) / side) > kMaxCells) side *= 2;
    return {side, (tx + side - 1) / side, (ty + side - 1) / side};
}

void blend_tiles(const Scene& scene, const Buffers& buffers, cudaStream_t stream);
void blend_tiles_backward(const Scene& scene, const Buffers& buffers, const Gradients& g, cudaStream_t stream);

}  // namespace avatar::gpu
