// Weighted L1 and SSIM of a band of rows, with the gradient of SSIM in the same pass. Rows stay interleaved (channels
// innermost): the horizontal window then only steps by `channels`. Included by level_*.cpp after kernels.inl.
#include "../include/avatar/ssim.h"

namespace avatar {
namespace AVATAR_NS {

template <class S, int W> AVATAR_HD Vec<S, W> load_some(const S* p, int n) {
    if (n >= W) return Vec<S, W>::load(p);
    alignas(64) S lanes[W] = {};
    for (int l = 0; l < n; ++l) lanes[l] = p[l];
    return Vec<S, W>::load(lanes);
}

template <class S, int W> AVATAR_HD Vec<S, W> window_along_row(const S* p, int step) {
    using V = Vec<S, W>;
    V r = V::load(p) * V(kSsimWindow[0]);
    for (int k = 1; k <= kSsimHalf; ++k) r = r + (V::load(p - k * step) + V::load(p + k * step)) * V(kSsimWindow[k]);
    return r;
}

constexpr int tap(int i) { return i < 0 ? -i : i; }

template <class S, int W> void ssim_band(const SsimJob<S>& job, int band, S* scratch) {
    using V = Vec<S, W>;
    constexpr int R = W == 16 ? 4 : V::kRegisters == 1 ? 2 : 1;  // rows per pass: as many accumulators as there are registers
    const int per_image = bands_per_image(job.height), image = band / per_image, channels = job.channels;
    const int row0 = band % per_image * kSsimBand;
    const int row1 = row0 + kSsimBand < job.height ? row0 + kSsimBand : job.height;
    const int line = job.width * channels, margin = kSsimHalf * channels;
    const size_t stride = static_cast<size_t>(line + 2 * margin + 64) / 16 * 16;
    const bool with_gradient = job.v_image != nullptr;

    const S* const x = job.image + static_cast<size_t>(image) * job.height * line;
    const S* const y = job.target + static_cast<size_t>(image) * job.height * line;
    S* const zeros = scratch;
    S* const weight_row = scratch + stride;
    S* const vertical = scratch + 2 * stride;                // 4 quantities x R rows
    S* const maps = vertical + 4 * R * stride;               // 3 x (band + 2 half) rows
    const int map_rows = kSsimBand + 2 * kSsimHalf, map0 = row0 - kSsimHalf;
    __builtin_memset(scratch, 0, (2 + 4 * R) * stride * sizeof(S));

    double sum_l1 = 0, sum_ssim = 0;
    const int first = with_gradient ? (map0 > 0 ? map0 : 0) : row0;
    const int last = with_gradient ? (row1 + kSsimHalf < job.height ? row1 + kSsimHalf : job.height) : row1;
    for (int m = first; m < last; m += R) {
        const S *xs[R + 2 * kSsimHalf], *ys[R + 2 * kSsimHalf];
        for (int i = 0; i < R + 2 * kSsimHalf; ++i) {
            const int row = m - kSsimHalf + i;
            const bool inside = row >= 0 && row < job.height;
            xs[i] = inside ? x + static_cast<size_t>(row) * line : zeros;
            ys[i] = inside ? y + static_cast<size_t>(row) * line : zeros;
        }
        for (int j = 0; j < line; j += W) {
            V acc[R][4];
            for (int r = 0; r < R; ++r)
                for (int q = 0; q < 4; ++q) acc[r][q] = V(0);
#pragma GCC unroll 14
            for (int i = 0; i < R + 2 * kSsimHalf; ++i) {
                const V a = load_some<S, W>(xs[i] + j, line - j), b = load_some<S, W>(ys[i] + j, line - j);
                const V squares = a * a + b * b, product = a * b;
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    const int k = tap(i - r - kSsimHalf);
                    if (k > kSsimHalf) continue;
                    const V g(kSsimWindow[k]);
                    acc[r][0] = acc[r][0] + a * g;
                    acc[r][1] = acc[r][1] + b * g;
                    acc[r][2] = acc[r][2] + squares * g;
                    acc[r][3] = acc[r][3] + product * g;
                }
            }
            for (int r = 0; r < R; ++r)
                for (int q = 0; q < 4; ++q) acc[r][q].store(vertical + (4 * r + q) * stride + margin + j);
        }
        for (int r = 0; r < R && m + r < last; ++r) {
            const int row = m + r;
            const S* weights = job.weights + (static_cast<size_t>(image) * job.height + row) * job.width;
            for (int c = 0; c < job.width; ++c)
                for (int k = 0; k < channels; ++k) weight_row[c * channels + k] = weights[c];
            const S* in = vertical + 4 * r * stride + margin;
            S* map = maps + static_cast<size_t>(row - map0) * stride + margin;
            V row_ssim(0), row_l1(0);
            const bool own = row >= row0 && row < row1;
            for (int j = 0; j < line; j += W) {
                SsimGrad<V> v;
                const V w = V::load(weight_row + j);
                const V value = ssim(window_along_row<S, W>(in + j, channels), window_along_row<S, W>(in + stride + j, channels),
                                     window_along_row<S, W>(in + 2 * stride + j, channels),
                                     window_along_row<S, W>(in + 3 * stride + j, channels), v);
                if (own) {
                    const V d = load_some<S, W>(xs[r + kSsimHalf] + j, line - j) - load_some<S, W>(ys[r + kSsimHalf] + j, line - j);
                    row_ssim = row_ssim + w * value;
                    row_l1 = row_l1 + w * maximum(d, V(0) - d);
                }
                if (with_gradient) {
                    (w * v.mean).store(map + j);
                    (w * v.square).store(map + map_rows * stride + j);
                    (w * v.product).store(map + 2 * map_rows * stride + j);
                }
            }
            for (int l = 0; l < W; ++l) {
                sum_ssim += row_ssim.lane(l);
                sum_l1 += row_l1.lane(l);
            }
        }
    }
    job.band_sums[2 * band] = sum_l1;
    job.band_sums[2 * band + 1] = sum_ssim;
    if (!with_gradient) return;

    S* const v_x = job.v_image + static_cast<size_t>(image) * job.height * line;
    for (int m = row0; m < row1; m += R) {
        const S* rows[R + 2 * kSsimHalf];
        for (int i = 0; i < R + 2 * kSsimHalf; ++i) {
            const int row = m - kSsimHalf + i;
            const bool inside = row >= first && row < last;
            rows[i] = inside ? maps + static_cast<size_t>(row - map0) * stride + margin : nullptr;
        }
        for (int q = 0; q < 3; ++q)
            for (int j = 0; j < line; j += W) {
                V acc[R];
                for (int r = 0; r < R; ++r) acc[r] = V(0);
#pragma GCC unroll 14
                for (int i = 0; i < R + 2 * kSsimHalf; ++i) {
                    const V a = V::load(rows[i] ? rows[i] + q * map_rows * stride + j : zeros);
#pragma GCC unroll 4
                    for (int r = 0; r < R; ++r) {
                        const int k = tap(i - r - kSsimHalf);
                        if (k <= kSsimHalf) acc[r] = acc[r] + a * V(kSsimWindow[k]);
                    }
                }
                for (int r = 0; r < R; ++r) acc[r].store(vertical + (4 * r + q) * stride + margin + j);
            }
        for (int r = 0; r < R && m + r < row1; ++r) {
            const S* in = vertical + 4 * r * stride + margin;
            const size_t at = static_cast<size_t>(m + r) * line;
            for (int j = 0; j < line; j += W) {
                const V a = load_some<S, W>(x + at + j, line - j), b = load_some<S, W>(y + at + j, line - j);
                const V v = window_along_row<S, W>(in + j, channels) +
                            V(2) * a * window_along_row<S, W>(in + stride + j, channels) +
                            b * window_along_row<S, W>(in + 2 * stride + j, channels);
                if (line - j >= W) {
                    v.store(v_x + at + j);
                } else {
                    for (int l = 0; l < line - j; ++l) v_x[at + j + l] = v.lane(l);
                }
            }
        }
    }
}

// v_image of pixels first..last-1; see l1_ssim_backward in rasterizer.h.
template <class S, int W> void l1_ssim_backward_run(const LossBackwardJob<S>& job, int64_t first, int64_t last) {
    using V = Vec<S, W>;
    constexpr int kPixels = 64;
    const int channels = job.channels;
    const V zero(0), v_ssim(job.v_ssim);
    for (int64_t p = first; p < last; p += kPixels) {
        const int pixels = last - p < kPixels ? static_cast<int>(last - p) : kPixels, count = pixels * channels;
        alignas(64) S weights[kPixels * kMaxChannels + W];  // weight of every number, times v_l1
        if (channels == 3) {
            for (int i = 0; i < pixels; ++i) weights[3 * i] = weights[3 * i + 1] = weights[3 * i + 2] = job.v_l1 * job.weights[p + i];
        } else {
            for (int i = 0; i < pixels; ++i)
                for (int k = 0; k < channels; ++k) weights[i * channels + k] = job.v_l1 * job.weights[p + i];
        }
        const size_t at = static_cast<size_t>(p) * channels;
        for (int j = 0; j < count; j += W) {
            const V d = load_some<S, W>(job.image + at + j, count - j) - load_some<S, W>(job.target + at + j, count - j);
            const V w = V::load(weights + j);
            const V v = v_ssim * load_some<S, W>(job.v_ssim_image + at + j, count - j) +
                        select(less(zero, d), w, select(less(d, zero), zero - w, zero));
            if (count - j >= W) {
                v.store(job.v_image + at + j);
            } else {
                for (int l = 0; l < count - j; ++l) job.v_image[at + j + l] = v.lane(l);
            }
        }
    }
}

}  // namespace AVATAR_NS
}  // namespace avatar
