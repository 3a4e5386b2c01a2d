// What every translation unit of the rasterizer agrees on: execution-space macro, constants, namespace.
// The constants repeat avatar/raster/reference.py; tests/raster compares them through the binding.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define AVATAR_HD __host__ __device__ __forceinline__
#else
#define AVATAR_HD inline __attribute__((always_inline))
#endif

// The CPU path compiles the same headers several times with different instruction sets. Each compilation gets its own
// inner namespace, or the linker would merge the copies and could run AVX-512 code on a machine without it.
#ifndef AVATAR_NS
#define AVATAR_NS scalar
#endif

namespace avatar {

constexpr double kNearCm = 0.5;             // splats nearer than this are dropped
constexpr double kBlurPx2 = 0.3;            // variance of the pixel footprint added to the 2D covariance
constexpr double kAlphaMin = 1.0 / 255.0;   // smaller contributions are skipped
constexpr double kAlphaMax = 0.999;         // keeps 1 - alpha invertible
constexpr double kTransmittanceMin = 1e-4;  // a pixel is finished below this
constexpr double kFovMargin = 0.15;         // Jacobian clamp beyond the image border, share of the image's side
constexpr double kLogScaleMin = -20.0, kLogScaleMax = 8.0;
constexpr double kQuatEps = 1e-12;

constexpr int kAttributes = 14;     // of a basis row: mean 3, quat 4, log scale 3, colour 3, opacity logit 1
constexpr int kRecordGeometry = 8;  // of a projected splat: x, y, a, b, c, log2_opacity, depth, unused; then the colour
constexpr int kMoments = 6;         // sums of a splat's gradient over its pixels, before those of its colour
constexpr int kPoseSums = 28;       // gradient of head 12, torso 12, fx, fy, cx, cy

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr double kLog2AlphaMin = -7.994353436858858;  // log2(1 / 255)

}  // namespace avatar
