// View-dependent colours and their gradient; formulas in include/avatar/sh.h.
#include "../include/avatar/sh.h"
#include "kernels.h"

namespace avatar::gpu {

namespace {

using scalar::Poses;

// How the camera sees a Gaussian in a frame, and the poses it follows from.
__device__ scalar::ViewState<float> load_view(const Sh& job, int frame, int splat, Poses<float>& poses) {
    load_poses(job.poses + frame * 24, poses);
    scalar::ViewState<float> state;
    scalar::view_state(job.means + 3 * (static_cast<int64_t>(frame) * job.splats + splat), job.skin[splat], poses, state);
    return state;
}

__global__ void __launch_bounds__(kBlock) sh_colors(Sh job) {
    const int frame = static_cast<int>(blockIdx.y), splat = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
    if (splat >= job.splats) return;
    const int64_t i = static_cast<int64_t>(frame) * job.splats + splat;
    Poses<float> poses;
    float factors[kShTerms];
    scalar::sh_factors(load_view(job, frame, splat, poses).direction, factors);
    const float* sh = job.sh + static_cast<int64_t>(splat) * job.terms * job.channels;
    for (int c = 0; c < job.channels; ++c) {
        float sum = 0.0f;
        for (int t = 0; t < job.terms; ++t) sum += factors[t] * sh[t * job.channels + c];
        job.colors[i * job.channels + c] = sum;
    }
}

__global__ void __launch_bounds__(kBlock) sh_gradient(Sh job) {
    __shared__ float by_warp[kWarps][32];
    const int frame = static_cast<int>(blockIdx.y), splat = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
    const int64_t i = static_cast<int64_t>(frame) * job.splats + splat;
    float sums[32];
    for (int k = 0; k < 32; ++k) sums[k] = 0.0f;
    if (splat < job.splats) {
        Poses<float> poses;
        const float skin = job.skin[splat];
        const scalar::ViewState<float> state = load_view(job, frame, splat, poses);
        const float* sh = job.sh + static_cast<int64_t>(splat) * job.terms * job.channels;
        float v_factors[kShTerms] = {0.0f, 0.0f, 0.0f, 0.0f}, v_pose[12], v_skin;
        for (int t = 0; t < job.terms; ++t)
            for (int c = 0; c < job.channels; ++c) v_factors[t] += job.v_colors[i * job.channels + c] * sh[t * job.channels + c];
        scalar::sh_backward(state, job.means + 3 * i, poses, v_factors, job.v_means + 3 * i, v_skin, v_pose);
        job.v_skin_frames[i] = v_skin;
        for (int k = 0; k < 12; ++k) {
            sums[k] = v_pose[k] * skin;
            sums[12 + k] = v_pose[k] * (1.0f - skin);
        }
    }
    warp_sums(sums);
    by_warp[threadIdx.x / 32][threadIdx.x % 32] = sums[0];
    __syncthreads();
    if (threadIdx.x < 24) {
        double sum = 0.0;
        for (int w = 0; w < kWarps; ++w) sum += by_warp[w][threadIdx.x];
        job.pose_partials[(static_cast<int64_t>(frame) * gridDim.x + blockIdx.x) * 24 + threadIdx.x] = sum;
    }
}

// Thread = Gaussian: sums over frames of the gradients by its coefficients and skin weight.
__global__ void __launch_bounds__(kBlock) sh_sum_frames(Sh job) {
    const int splat = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
    if (splat >= job.splats) return;
    float* const v_sh = job.v_sh + static_cast<int64_t>(splat) * job.terms * job.channels;
    for (int k = 0; k < job.terms * job.channels; ++k) v_sh[k] = 0.0f;
    float v_skin = 0.0f;
    for (int frame = 0; frame < job.batch; ++frame) {
        const int64_t i = static_cast<int64_t>(frame) * job.splats + splat;
        Poses<float> poses;
        float factors[kShTerms];
        scalar::sh_factors(load_view(job, frame, splat, poses).direction, factors);
        for (int t = 0; t < job.terms; ++t)
            for (int c = 0; c < job.channels; ++c) v_sh[t * job.channels + c] += factors[t] * job.v_colors[i * job.channels + c];
        v_skin += job.v_skin_frames[i];
    }
    job.v_skin[splat] = v_skin;
}

__global__ void sh_sum_poses(Sh job, int blocks) {
    const int frame = static_cast<int>(blockIdx.x), k = static_cast<int>(threadIdx.x);
    if (k >= 24) return;
    double sum = 0.0;
    for (int b = 0; b < blocks; ++b) sum += job.pose_partials[(static_cast<int64_t>(frame) * blocks + b) * 24 + k];
    job.v_poses[frame * 24 + k] = static_cast<float>(sum);
}

}  // namespace

}  // namespace avatar::gpu

using namespace avatar;
using namespace avatar::gpu;

extern "C" int avatar_sh(const Sh* job, void* stream) {
    launch(sh_colors, dim3(blocks_for(job->splats), job->batch), kBlock, static_cast<cudaStream_t>(stream), *job);
    return cudaGetLastError();
}

extern "C" int avatar_sh_backward(const Sh* job, void* stream) {
    const auto s = static_cast<cudaStream_t>(stream);
    const unsigned blocks = blocks_for(job->splats);
    launch(sh_gradient, dim3(blocks, job->batch), kBlock, s, *job);
    launch(sh_sum_frames, dim3(blocks), kBlock, s, *job);
    launch(sh_sum_poses, dim3(job->batch), 32, s, *job, static_cast<int>(blocks));
    return cudaGetLastError();
}
