// The CPU rasterizer as the binding sees it. All pointers are to contiguous arrays owned by the caller.
#pragma once
#include <memory>
#include <vector>

#include "jobs.h"

namespace avatar {

enum class Level { kBaseline, kAvx2, kAvx512 };

// Widest level this machine can run, or the one named by AVATAR_SIMD ("baseline", "avx2", "avx512"); a name that is
// unknown or not runnable throws std::runtime_error.
const Kernels<float>& choose_kernels(const float*);
const Kernels<double>& choose_kernels(const double*);
std::vector<const char*> runnable_levels();

// Grow-only memory of one forward or backward pass, reused between calls so that the steady state allocates nothing.
struct Workspace;
using WorkspacePtr = std::unique_ptr<Workspace, void (*)(Workspace*)>;
WorkspacePtr borrow_workspace();

// Layout of the list buffer that forward leaves for backward, in int32 units.
struct ListLayout {
    int64_t tile_start, slot_start, splat, slot_entry, groups, total;
    ListLayout(int64_t batch, int64_t splats, int64_t tiles, int64_t entries);
};
inline int64_t tile_count(int width, int height) {
    return static_cast<int64_t>((width + kTileW - 1) / kTileW) * ((height + kTileH - 1) / kTileH);
}

// Forward in two steps, so that the caller allocates the lists once their size is known.
// Step 1 fills `records` and returns the number of list entries.
template <class S>
int64_t forward_project(const Scene<S>& scene, const int32_t* layers, S* records, int threads, Workspace& workspace);
// Step 2 fills `lists` (ListLayout) and the outputs.
template <class S>
void forward_blend(const Scene<S>& scene, const S* records, int32_t* lists, int64_t entries, S* image, S* alpha, int threads,
                   Workspace& workspace);

template <class S> struct Gradients {
    S *means, *quats, *log_scales, *opacity_logits, *colors, *skin, *poses, *intrinsics;
    S* background;  // (height, width, background_channels); may be null
    S* sink;  // (splats, 2): summed |d loss / d mean2d| in px units and number of images that see the splat; may be null
};
template <class S>
void backward(const Scene<S>& scene, const S* records, int32_t* lists, S* image, S* alpha, const S* v_image,
              const S* v_alpha, const Gradients<S>& out, int threads, Workspace& workspace);

// Gaussians of every frame from canonical ones and their motion bases; one job per branch, all over the same outputs.
template <class S> void animate(const AnimateJob<S>& job, int threads, Workspace& workspace);
template <class S> void animate_backward(const AnimateBackwardJob<S>& job, int threads, Workspace& workspace);

template <class S> void sh_colors(const ShJob<S>& job, int threads);
template <class S> struct ShGradients { S *sh, *means, *skin, *poses; };
template <class S>
void sh_colors_backward(const ShJob<S>& job, const S* v_colors, const ShGradients<S>& out, int threads, Workspace& workspace);

// Sums of weights * |image - target| and weights * SSIM over pixels and channels; `v_image` may be null.
template <class S>
void l1_ssim(const S* image, const S* target, const S* weights, int batch, int height, int width, int channels, S* v_image,
             double sums[2], int threads, Workspace& workspace);
template <class S>
void l1_ssim_backward(const S* image, const S* target, const S* weights, const S* v_ssim_image, int64_t pixels, int channels, S v_l1,
                      S v_ssim, S* v_image, int threads);

}  // namespace avatar
