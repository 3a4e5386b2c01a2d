// View-dependent colours of a block of splats. Included by level_*.cpp after kernels.inl.
#include "../include/avatar/sh.h"

namespace avatar {
namespace AVATAR_NS {

template <class S, int W> struct ShLanes {
    using V = Vec<S, W>;
    V mean[3], skin;
    AVATAR_HD ShLanes(const ShJob<S>& job, int image, int first, int count) {
        alignas(64) S lanes[4][W];
        for (int l = 0; l < W; ++l) {
            const int n = first + (l < count ? l : count - 1);  // lanes beyond the last splat repeat it
            for (int k = 0; k < 3; ++k) lanes[k][l] = job.means[(static_cast<size_t>(image) * job.splats + n) * 3 + k];
            lanes[3][l] = job.skin[n];
        }
        for (int k = 0; k < 3; ++k) mean[k] = V::load(lanes[k]);
        skin = V::load(lanes[3]);
    }
};

template <class S, int W> AVATAR_HD Poses<Vec<S, W>> sh_poses(const ShJob<S>& job, int image) {
    Poses<Vec<S, W>> poses;
    for (int i = 0; i < 12; ++i) {
        poses.head[i] = Vec<S, W>(job.poses[image * 24 + i]);
        poses.torso[i] = Vec<S, W>(job.poses[image * 24 + 12 + i]);
    }
    return poses;
}

template <class S, int W> void sh_chunk(const ShJob<S>& job, int chunk) {
    using V = Vec<S, W>;
    const int per_image = chunks_per_image(job.splats), image = chunk / per_image, begin = chunk % per_image * kChunk;
    const int end = begin + kChunk < job.splats ? begin + kChunk : job.splats;
    const Poses<V> poses = sh_poses<S, W>(job, image);
    for (int first = begin; first < end; first += W) {
        const int count = end - first < W ? end - first : W;
        const ShLanes<S, W> lanes(job, image, first, count);
        ViewState<V> state;
        view_state(lanes.mean, lanes.skin, poses, state);
        V factors[kShTerms];
        sh_factors(state.direction, factors);
        alignas(64) S f[kShTerms][W];
        for (int t = 0; t < kShTerms; ++t) factors[t].store(f[t]);
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(image) * job.splats + first + l;
            const S* sh = job.sh + static_cast<size_t>(first + l) * job.terms * job.channels;
            for (int c = 0; c < job.channels; ++c) {
                S sum = S(0);
                for (int t = 0; t < job.terms; ++t) sum += f[t][l] * sh[t * job.channels + c];
                job.colors[i * job.channels + c] = sum;
            }
        }
    }
}

// Writes the frame's gradients; rasterizer.cpp adds those of sh, skin and poses over frames and chunks.
template <class S, int W> void sh_backward_chunk(const ShBackwardJob<S>& job, int chunk) {
    using V = Vec<S, W>;
    const ShJob<S>& in = job.forward;
    const int per_image = chunks_per_image(in.splats), image = chunk / per_image, begin = chunk % per_image * kChunk;
    const int end = begin + kChunk < in.splats ? begin + kChunk : in.splats;
    const Poses<V> poses = sh_poses<S, W>(in, image);
    double sums[24] = {};
    for (int first = begin; first < end; first += W) {
        const int count = end - first < W ? end - first : W;
        const ShLanes<S, W> lanes(in, image, first, count);
        ViewState<V> state;
        view_state(lanes.mean, lanes.skin, poses, state);
        alignas(64) S v_f[kShTerms][W] = {};
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(image) * in.splats + first + l;
            const S* sh = in.sh + static_cast<size_t>(first + l) * in.terms * in.channels;
            for (int t = 0; t < in.terms; ++t)
                for (int c = 0; c < in.channels; ++c) v_f[t][l] += job.v_colors[i * in.channels + c] * sh[t * in.channels + c];
        }
        V v_factors[kShTerms], v_mean[3], v_skin, v_pose[12], factors[kShTerms];
        for (int t = 0; t < kShTerms; ++t) v_factors[t] = V::load(v_f[t]);
        sh_backward(state, lanes.mean, poses, v_factors, v_mean, v_skin, v_pose);
        sh_factors(state.direction, factors);
        alignas(64) S out[4][W], f[kShTerms][W], pose[12][W], skin[W];
        for (int k = 0; k < 3; ++k) v_mean[k].store(out[k]);
        v_skin.store(out[3]);
        for (int t = 0; t < kShTerms; ++t) factors[t].store(f[t]);
        for (int k = 0; k < 12; ++k) v_pose[k].store(pose[k]);
        lanes.skin.store(skin);
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(image) * in.splats + first + l;
            for (int k = 0; k < 3; ++k) job.v_means[3 * i + k] = out[k][l];
            job.v_skin[i] = out[3][l];
            for (int t = 0; t < in.terms; ++t) job.factors[i * kShTerms + t] = f[t][l];
            for (int k = 0; k < 12; ++k) {
                sums[k] += static_cast<double>(pose[k][l] * skin[l]);
                sums[12 + k] += static_cast<double>(pose[k][l] * (S(1) - skin[l]));
            }
        }
    }
    for (int k = 0; k < 24; ++k) job.v_pose_chunks[static_cast<size_t>(chunk) * 24 + k] = static_cast<S>(sums[k]);
}

}  // namespace AVATAR_NS
}  // namespace avatar
