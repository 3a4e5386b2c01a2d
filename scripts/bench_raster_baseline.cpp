// The yardstick of scripts/bench_raster.py: a straightforward tile rasterizer, as one would write it first. 16x16 tiles,
// one list per tile, an inner loop over all 256 pixels of the tile that the compiler vectorises, reductions by the
// compiler, per-thread gradient buffers. Bench only; compiled with -O3 -march=native -ffast-math -fopenmp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../cuda_ext/include/avatar/projection.h"

using namespace avatar;
using namespace avatar::AVATAR_NS;

namespace {

constexpr int kTile = 16, kPixels = kTile * kTile, kColors = 3;

struct Splat { float x, y, a, b, c, opacity, color[kColors]; };

struct State {
    int tiles_x, tiles_y;
    std::vector<Splat> splats;
    std::vector<Projected<float>> projected;
    std::vector<char> visible;
    std::vector<std::vector<int>> lists;
} state;

Gaussian<float> gaussian(const float* const* in, int i) {
    Gaussian<float> g;
    for (int k = 0; k < 3; ++k) g.mean[k] = in[0][3 * i + k];
    for (int k = 0; k < 4; ++k) g.quat[k] = in[1][4 * i + k];
    for (int k = 0; k < 3; ++k) g.log_scale[k] = in[2][3 * i + k];
    g.opacity_logit = in[3][i];
    g.skin = in[5][i];
    return g;
}

Poses<float> poses_of(const float* p) {
    Poses<float> r;
    std::memcpy(r.head, p, sizeof r.head);
    std::memcpy(r.torso, p + 12, sizeof r.torso);
    return r;
}

}  // namespace

// in: means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics of one image.
extern "C" void baseline_forward(const float* const* in, int n, int width, int height, float* image, float* alpha, int threads) {
    State& s = state;
    const Camera<float> camera{in[7][0], in[7][1], in[7][2], in[7][3], float(width), float(height)};
    const Poses<float> poses = poses_of(in[6]);
    s.tiles_x = (width + kTile - 1) / kTile;
    s.tiles_y = (height + kTile - 1) / kTile;
    s.splats.resize(n);
    s.projected.resize(n);
    s.visible.resize(n);
    s.lists.assign(size_t(s.tiles_x) * s.tiles_y, {});
#pragma omp parallel for num_threads(threads)
    for (int i = 0; i < n; ++i) {
        Projected<float>& p = s.projected[i];
        bool visible;
        project(gaussian(in, i), poses, camera, p, visible);
        s.visible[i] = visible && p.x + p.half_x > 0 && p.x - p.half_x < width && p.y + p.half_y > 0 && p.y - p.half_y < height;
        Splat& o = s.splats[i];
        o = {p.x, p.y, p.a * float(kLn2), p.b * float(kLn2), p.c * float(kLn2), std::exp2(p.log2_opacity), {}};
        for (int k = 0; k < kColors; ++k) o.color[k] = in[4][kColors * i + k];
    }
    std::vector<int> order;
    for (int i = 0; i < n; ++i)
        if (s.visible[i]) order.push_back(i);
    std::sort(order.begin(), order.end(), [&](int p, int q) { return s.projected[p].depth < s.projected[q].depth; });
    for (int i : order) {
        const Projected<float>& p = s.projected[i];
        const int x0 = std::max(0, int((p.x - p.half_x) / kTile)), x1 = std::min(s.tiles_x - 1, int((p.x + p.half_x) / kTile));
        const int y0 = std::max(0, int((p.y - p.half_y) / kTile)), y1 = std::min(s.tiles_y - 1, int((p.y + p.half_y) / kTile));
        for (int y = y0; y <= y1; ++y)
            for (int x = x0; x <= x1; ++x) s.lists[y * s.tiles_x + x].push_back(i);
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int t = 0; t < s.tiles_x * s.tiles_y; ++t) {
        float trans[kPixels], color[kColors][kPixels] = {};
        const int x0 = t % s.tiles_x * kTile, y0 = t / s.tiles_x * kTile;
        for (float& v : trans) v = 1;
        for (int i : s.lists[t]) {
            const Splat& p = s.splats[i];
            float most = 0;
#pragma omp simd reduction(max : most)
            for (int j = 0; j < kPixels; ++j) {
                const float dx = x0 + (j & 15) + 0.5f - p.x, dy = y0 + (j >> 4) + 0.5f - p.y;
                float a = std::min(0.999f, p.opacity * std::exp(p.a * dx * dx + p.b * dx * dy + p.c * dy * dy));
                a = a >= 1.0f / 255 && trans[j] >= 1e-4f ? a : 0.0f;
                const float w = a * trans[j];
                for (int k = 0; k < kColors; ++k) color[k][j] += w * p.color[k];
                trans[j] -= w;
                most = std::max(most, trans[j]);
            }
            if (most < 1e-4f) break;
        }
        for (int j = 0; j < kPixels; ++j) {
            const int x = x0 + (j & 15), y = y0 + (j >> 4);
            if (x >= width || y >= height) continue;
            for (int k = 0; k < kColors; ++k) image[(y * width + x) * kColors + k] = color[k][j];
            alpha[y * width + x] = 1 - trans[j];
        }
    }
}

// out: gradients of the eight inputs, zeroed by the caller. Follows baseline_forward of the same scene.
extern "C" void baseline_backward(const float* const* in, int n, int width, int height, const float* image, const float* alpha,
                                  const float* v_image, const float* v_alpha, float* const* out, int threads) {
    State& s = state;
    constexpr int kGrads = 6 + kColors;
    std::vector<float> all(size_t(threads) * n * kGrads, 0.0f);
    const Camera<float> camera{in[7][0], in[7][1], in[7][2], in[7][3], float(width), float(height)};
    const Poses<float> poses = poses_of(in[6]);
    const int tiles = s.tiles_x * s.tiles_y;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread) {
        float* grads = all.data() + size_t(thread) * n * kGrads;
        for (int t = thread; t < tiles; t += threads) {
            float trans[kPixels], behind[kColors + 1][kPixels] = {}, v_c[kColors + 1][kPixels] = {};
            const int x0 = t % s.tiles_x * kTile, y0 = t / s.tiles_x * kTile;
            for (int j = 0; j < kPixels; ++j) {
                trans[j] = 1;
                const int x = x0 + (j & 15), y = y0 + (j >> 4);
                if (x >= width || y >= height) continue;
                for (int k = 0; k < kColors; ++k) {
                    behind[k][j] = image[(y * width + x) * kColors + k];
                    v_c[k][j] = v_image[(y * width + x) * kColors + k];
                }
                behind[kColors][j] = alpha[y * width + x];
                v_c[kColors][j] = v_alpha[y * width + x];
            }
            for (int i : s.lists[t]) {
                const Splat& p = s.splats[i];
                float g[kGrads] = {}, most = 0;
#pragma omp simd reduction(max : most) reduction(+ : g)
                for (int j = 0; j < kPixels; ++j) {
                    const float dx = x0 + (j & 15) + 0.5f - p.x, dy = y0 + (j >> 4) + 0.5f - p.y;
                    const float e = std::exp(p.a * dx * dx + p.b * dx * dy + p.c * dy * dy), raw = p.opacity * e;
                    float a = std::min(0.999f, raw);
                    a = a >= 1.0f / 255 && trans[j] >= 1e-4f ? a : 0.0f;
                    const float w = a * trans[j];
                    float v_a = 0;
                    for (int k = 0; k < kColors; ++k) {
                        behind[k][j] -= w * p.color[k];
                        v_a += v_c[k][j] * (trans[j] * p.color[k] - behind[k][j] / (1 - a));
                        g[6 + k] += w * v_c[k][j];
                    }
                    behind[kColors][j] -= w;
                    v_a += v_c[kColors][j] * (trans[j] - behind[kColors][j] / (1 - a));
                    const float v_power = raw < 0.999f ? v_a * a : 0.0f;
                    g[0] -= v_power * (2 * p.a * dx + p.b * dy);
                    g[1] -= v_power * (2 * p.c * dy + p.b * dx);
                    g[2] += v_power * dx * dx;
                    g[3] += v_power * dx * dy;
                    g[4] += v_power * dy * dy;
                    g[5] += v_power;
                    trans[j] -= w;
                    most = std::max(most, trans[j]);
                }
                for (int k = 0; k < kGrads; ++k) grads[size_t(i) * kGrads + k] += g[k];
                if (most < 1e-4f) break;
            }
        }
    }
    float v_poses[24] = {}, v_camera[4] = {};
#pragma omp parallel for num_threads(threads) reduction(+ : v_poses, v_camera)
    for (int i = 0; i < n; ++i) {
        float g[kGrads] = {};
        for (int t = 0; t < threads; ++t)
            for (int k = 0; k < kGrads; ++k) g[k] += all[(size_t(t) * n + i) * kGrads + k];
        for (int k = 0; k < kColors; ++k) out[4][kColors * i + k] = g[6 + k];
        if (!s.visible[i]) continue;
        const float ln2 = float(kLn2);  // the quadratic form of projection.h is in base 2
        const ProjectedGrad<float> v{g[0], g[1], g[2] * ln2, g[3] * ln2, g[4] * ln2, g[5] * ln2};
        Gaussian<float> v_g;
        float v_pose[12], v_cam[4];
        const Gaussian<float> in_g = gaussian(in, i);
        project_backward(in_g, poses, camera, v, v_g, v_pose, v_cam);
        for (int k = 0; k < 3; ++k) out[0][3 * i + k] = v_g.mean[k];
        for (int k = 0; k < 4; ++k) out[1][4 * i + k] = v_g.quat[k];
        for (int k = 0; k < 3; ++k) out[2][3 * i + k] = v_g.log_scale[k];
        out[3][i] = v_g.opacity_logit;
        out[5][i] = v_g.skin;
        for (int k = 0; k < 12; ++k) {
            v_poses[k] += in_g.skin * v_pose[k];
            v_poses[12 + k] += (1 - in_g.skin) * v_pose[k];
        }
        for (int k = 0; k < 4; ++k) v_camera[k] += v_cam[k];
    }
    for (int k = 0; k < 24; ++k) out[6][k] = v_poses[k];
    for (int k = 0; k < 4; ++k) out[7][k] = v_camera[k];
}
