// Blending of the motion bases: canonical Gaussians of a branch to the Gaussians of every frame, and the gradient.
// Included by level_*.cpp after kernels.inl.
//
// Memory is the limit here (the bases are by far the largest tensor), so each pass reads them once for all frames, in
// chunks whose sums stay in the cache.

namespace avatar {
namespace AVATAR_NS {

// target[0..n) += a * source[0..n); n is a multiple of W but for the last row's end.
template <class S, int W> AVATAR_HD void add_scaled(S* target, S a, const S* source, int n) {
    using V = Vec<S, W>;
    const V factor(a);
    int i = 0;
    for (; i + W <= n; i += W) (V::load(target + i) + factor * V::load(source + i)).store(target + i);
    for (; i < n; ++i) target[i] += a * source[i];
}

template <class S, int W> AVATAR_HD S dot(const S* a, const S* b, int n) {
    using V = Vec<S, W>;
    V sums(0);
    int i = 0;
    for (; i + W <= n; i += W) sums = sums + V::load(a + i) * V::load(b + i);
    S total = S(0);
    for (int l = 0; l < W; ++l) total += sums.lane(l);
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
}

template <class S, int W> void animate_chunk(const AnimateJob<S>& job, int chunk, S* offsets) {
    const BranchArrays<S>& branch = job.branch;
    const int first = chunk * kAnimateChunk, count = branch.count - first < kAnimateChunk ? branch.count - first : kAnimateChunk;
    const int numbers = count * kAttributes;
    __builtin_memset(offsets, 0, sizeof(S) * kAnimateChunk * kAttributes * static_cast<size_t>(job.batch));
    for (int k = 0; k < branch.basis_count; ++k) {
        const S* row = branch.bases + (static_cast<size_t>(k) * branch.count + first) * kAttributes;
        for (int b = 0; b < job.batch; ++b)
            add_scaled<S, W>(offsets + static_cast<size_t>(b) * kAnimateChunk * kAttributes, branch.weights[b * branch.basis_count + k], row, numbers);
    }
    const S* units = job.units;
    for (int b = 0; b < job.batch; ++b)
        for (int l = 0; l < count; ++l) {
            const size_t i = static_cast<size_t>(first + l), out = static_cast<size_t>(b) * job.splats + branch.first + i;
            const S* d = offsets + (static_cast<size_t>(b) * kAnimateChunk + l) * kAttributes;
            for (int k = 0; k < 3; ++k) job.means[3 * out + k] = branch.means[3 * i + k] + units[k] * d[k];
            for (int k = 0; k < 4; ++k) job.quats[4 * out + k] = branch.quats[4 * i + k] + units[3 + k] * d[3 + k];
            for (int k = 0; k < 3; ++k) job.log_scales[3 * out + k] = branch.log_scales[3 * i + k] + units[7 + k] * d[7 + k];
            for (int k = 0; k < 3; ++k) job.colors[job.channels * out + k] = branch.colors[3 * i + k] + units[10 + k] * d[10 + k];
            for (int k = 3; k < job.channels; ++k) job.colors[job.channels * out + k] = S(k - 3 == job.layer);
            job.opacity_logits[out] = branch.opacity_logits[i] + units[13] * d[13];
        }
    for (int l = 0; l < count; ++l) {
        job.skin[branch.first + first + l] = S(1) / (S(1) + exponential(-branch.skin_logits[first + l]));
        job.layers[branch.first + first + l] = job.layer;
    }
}

template <class S, int W> void animate_backward_chunk(const AnimateBackwardJob<S>& job, int chunk, S* v) {
    const BranchArrays<S>& branch = job.branch;
    const int first = chunk * kAnimateChunk, count = branch.count - first < kAnimateChunk ? branch.count - first : kAnimateChunk;
    const int numbers = count * kAttributes;
    const S* units = job.units;
    for (int l = 0; l < count; ++l) {
        const size_t i = static_cast<size_t>(first + l);
        S sums[kAttributes] = {};
        for (int b = 0; b < job.batch; ++b) {
            const size_t in = static_cast<size_t>(b) * job.splats + branch.first + i;
            S* row = v + (static_cast<size_t>(b) * kAnimateChunk + l) * kAttributes;
            for (int k = 0; k < 3; ++k) row[k] = job.v_means[3 * in + k];
            for (int k = 0; k < 4; ++k) row[3 + k] = job.v_quats[4 * in + k];
            for (int k = 0; k < 3; ++k) row[7 + k] = job.v_log_scales[3 * in + k];
            for (int k = 0; k < 3; ++k) row[10 + k] = job.v_colors[job.channels * in + k];
            row[13] = job.v_opacity_logits[in];
            for (int k = 0; k < kAttributes; ++k) {
                sums[k] += row[k];
                row[k] *= units[k];  // from here on: gradient by the blended basis
            }
        }
        for (int k = 0; k < 3; ++k) job.out.means[3 * i + k] = sums[k];
        for (int k = 0; k < 4; ++k) job.out.quats[4 * i + k] = sums[3 + k];
        for (int k = 0; k < 3; ++k) job.out.log_scales[3 * i + k] = sums[7 + k];
        for (int k = 0; k < 3; ++k) job.out.colors[3 * i + k] = sums[10 + k];
        job.out.opacity_logits[i] = sums[13];
        const S skin = S(1) / (S(1) + exponential(-branch.skin_logits[i]));
        job.out.skin_logits[i] = job.v_skin[branch.first + i] * skin * (S(1) - skin);
    }
    for (int k = 0; k < branch.basis_count; ++k) {
        const size_t at = (static_cast<size_t>(k) * branch.count + first) * kAttributes;
        S* target = job.out.bases + at;
        for (int b = 0; b < job.batch; ++b) {
            const S* row = v + static_cast<size_t>(b) * kAnimateChunk * kAttributes;
            const S weight = branch.weights[b * branch.basis_count + k];
            job.weight_partials[(static_cast<size_t>(chunk) * job.batch + b) * branch.basis_count + k] = dot<S, W>(branch.bases + at, row, numbers);
            if (b == 0)
                for (int n = 0; n < numbers; ++n) target[n] = weight * row[n];
            else
                add_scaled<S, W>(target, weight, row, numbers);
        }
    }
}

}  // namespace AVATAR_NS
}  // namespace avatar
