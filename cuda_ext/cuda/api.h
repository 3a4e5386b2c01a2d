// The C interface of the CUDA rasterizer: plain structs of device addresses, no PyTorch header, one build for every torch.
// avatar/raster/cuda.py mirrors these structs with ctypes and allocates every buffer through torch.
//
// All work goes to the given stream and nothing waits for the device, so calls can be captured in a CUDA graph. Every
// function returns a cudaError_t; 0 is success.
#pragma once
#include <cstdint>

#include "../include/avatar/config.h"

namespace avatar::gpu {

constexpr int kMaxBranches = 4;
constexpr int kAttributeStride = 16;  // in memory: the skin weight and one unused number follow
constexpr int kMaxLayers = 16;        // compositing layers beyond are drawn as the last one
constexpr int kTile = 16;             // px; a tile is one block, its 8 x 4 px parts are the block's warps

// Gaussians with K linear motion bases: attribute = canonical + unit * sum_k weight_k basis_k. With `per_frame` (see
// Scene) the arrays have a leading frame dimension instead and there are no bases.
struct Branch {
    const float *means, *quats, *log_scales, *opacity_logits, *colors, *skin;
    const void* bases;     // (K, N, kAttributes), float, or half when Scene::half_bases
    const float* weights;  // (B, K)
    int32_t count, basis_count, first, unused;  // first: index of its first Gaussian among all branches'
};

struct Scene {
    Branch branches[kMaxBranches];
    const float *poses, *intrinsics;  // (B, 2, 3, 4), (4,)
    const float* background;          // (H, W, C) under everything, or null
    const int32_t* layers;            // (N,) in 0 .. kMaxLayers - 1; null: the index of the branch
    float units[kAttributes];
    int32_t branch_count, batch, splats, width, height;
    int32_t colors;         // channels that the Gaussians carry
    int32_t coverage;       // channels after them that tell layers 0, 1, ... apart (one-hot)
    int32_t per_frame, skin_is_logit, half_bases;
};

// Filled by forward, read by backward. Sizes in elements, with S = avatar_record_stride(channels).
struct Buffers {
    float* attributes;     // B N kAttributeStride, or null: not needed when backward will not follow
    float* records;        // B N S
    uint16_t* boxes;       // B N 4: first and last tile column and row; x1 < x0 when invisible
    uint64_t *keys, *keys_sorted;        // B N
    int32_t *indices, *order;            // B N; order: the frame's Gaussians front to back, invisible ones last
    uint32_t* masks;       // B * cells * words: which of 32 consecutive Gaussians of `order` reach a cell of the image
    void* temporary;       // avatar_sort_bytes
    int64_t temporary_bytes;
    float *image, *alpha;  // (B, H, W, C), (B, H, W)
};

struct Gradients {
    const float *v_image, *v_alpha;
    // scratch
    float* sums;             // B N kSums: of each splat over its tiles
    float* v_attributes;     // B N kAttributeStride
    float* v_mean2d;         // B N 2 or null
    double* pose_partials;   // B * blocks * kPoseSums, blocks = avatar_blocks(N)
    float* weight_partials;  // max over branches of avatar_animate_blocks(count) * K * min(B, 8)
    // deterministic mode: slot_start (B N + 1) from avatar_slots, partials (slots, kSums); null: atomic additions
    const int32_t* slot_start;
    float* partials;
    // results, one per branch
    float *means[kMaxBranches], *quats[kMaxBranches], *log_scales[kMaxBranches], *opacity_logits[kMaxBranches];
    float *colors[kMaxBranches], *skin[kMaxBranches], *bases[kMaxBranches], *weights[kMaxBranches];
    float *poses, *intrinsics;
    float* background;  // (H, W, C) or null
    float* sink;        // (N, 2) or null: summed |d loss / d mean2d| in px units, number of images that see the splat; added to
};

struct Loss {
    const float *image, *target, *weights;  // (B, H, W, C) twice, (B, H, W)
    int32_t batch, height, width, channels;
    float* maps;         // 3 B H W C, scratch; null: no gradient is wanted
    double* partials;    // 3 per block, blocks = avatar_loss_blocks
    float* out;          // l1, ssim, sum of weights * channels
    float* v_ssim_image; // (B, H, W, C): d ssim / d image * (sum of weights * channels); unused without maps
};

// View-dependent colours (include/avatar/sh.h); the second half is for the gradient.
struct Sh {
    const float *sh, *means, *skin, *poses;  // (N, terms, channels), (B, N, 3), (N,), (B, 2, 3, 4)
    int32_t batch, splats, terms, channels;
    float* colors;           // (B, N, channels)
    const float* v_colors;
    float* v_skin_frames;    // (B, N), scratch
    double* pose_partials;   // B * avatar_blocks(N) * 24, scratch
    float *v_sh, *v_means, *v_skin, *v_poses;
};

AVATAR_HD int compiled_channels(int channels) { return channels <= 3 ? 3 : 8; }
AVATAR_HD int record_stride(int channels) { return channels <= 3 ? 12 : 16; }
constexpr int kSums = 16;  // moments and colour gradient of a splat, padded

}  // namespace avatar::gpu

extern "C" {
int avatar_draw(const avatar::gpu::Scene* scene, const avatar::gpu::Buffers* buffers, void* stream);
int avatar_draw_backward(const avatar::gpu::Scene* scene, const avatar::gpu::Buffers* buffers, const avatar::gpu::Gradients* gradients, void* stream);
// Exclusive sum over Gaussians of the number of tiles of their boxes: slot_start (B N + 1).
int avatar_slots(const avatar::gpu::Scene* scene, const avatar::gpu::Buffers* buffers, int32_t* counts, int32_t* slot_start, void* stream);
int avatar_l1_ssim(const avatar::gpu::Loss* loss, void* stream);
// v_image = v_l1 * weights * sign(image - target) / total + v_ssim * v_ssim_image / total, scalars read on the device; loss.out is unused.
int avatar_l1_ssim_backward(const avatar::gpu::Loss* loss, const float* total, const float* v_l1, const float* v_ssim, float* v_image,
                            void* stream);
int avatar_sh(const avatar::gpu::Sh* job, void* stream);
int avatar_sh_backward(const avatar::gpu::Sh* job, void* stream);

int64_t avatar_sort_bytes(int batch, int splats);
int64_t avatar_mask_words(int batch, int splats, int width, int height);
int avatar_record_stride(int channels);
int avatar_blocks(int threads);
int avatar_animate_blocks(int count);
int avatar_loss_blocks(int batch, int height, int width);
const char* avatar_error(int code);
const char* avatar_layout();  // sizes of the structs above, for a check by the caller
}
