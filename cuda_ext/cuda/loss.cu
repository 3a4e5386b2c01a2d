// Weighted L1 and SSIM with the gradient of SSIM: one kernel for the value and three derivative maps, one that takes
// them through the window again. Formula in include/avatar/ssim.h. Block = 16 x 16 px of one image.
#include "kernels.h"

namespace avatar::gpu {

namespace {

constexpr int kHalf = 5, kHaloSide = kTile + 2 * kHalf;

// Reads a channel of the block's pixels with a border of kHalf, zero outside the image (as the twin pads).
__device__ void load_halo(const float* source, int height, int width, int stride, int x0, int y0, float (*out)[kHaloSide]) {
    for (int i = static_cast<int>(threadIdx.x); i < kHaloSide * kHaloSide; i += kBlock) {
        const int y = y0 - kHalf + i / kHaloSide, x = x0 - kHalf + i % kHaloSide;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        out[i / kHaloSide][i % kHaloSide] = inside ? source[(static_cast<int64_t>(y) * width + x) * stride] : 0.0f;
    }
}

__device__ float tap(int distance) {
    constexpr float window[kHalf + 1] = {float(kSsimWindow[0]), float(kSsimWindow[1]), float(kSsimWindow[2]),
                                         float(kSsimWindow[3]), float(kSsimWindow[4]), float(kSsimWindow[5])};
    return window[distance < 0 ? -distance : distance];
}

// Sum over the block in a fixed order; thread 0 has the result.
__device__ double block_sum(double value, double* scratch) {
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = kBlock / 2; half >= 1; half /= 2) {
        if (static_cast<int>(threadIdx.x) < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
        __syncthreads();
    }
    const double sum = scratch[0];
    __syncthreads();
    return sum;
}

struct LossPixel { int x0, y0, x, y; bool inside; int64_t index; };

__device__ LossPixel loss_pixel(const Loss& loss) {
    const int columns = (loss.width + kTile - 1) / kTile, tile = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x);
    LossPixel p;
    p.x0 = tile % columns * kTile;
    p.y0 = tile / columns * kTile;
    p.x = p.x0 + lane % kTile;
    p.y = p.y0 + lane / kTile;
    p.inside = p.x < loss.width && p.y < loss.height;
    p.index = (static_cast<int64_t>(blockIdx.y) * loss.height + p.y) * loss.width + p.x;
    return p;
}

__global__ void __launch_bounds__(kBlock) l1_ssim_tile(Loss loss) {
    __shared__ float xs[kHaloSide][kHaloSide], ys[kHaloSide][kHaloSide];
    __shared__ float rows[4][kHaloSide][kTile];  // windowed along x: x, y, x^2 + y^2, x y
    __shared__ double scratch[kBlock];
    const LossPixel pixel = loss_pixel(loss);
    const int64_t image = static_cast<int64_t>(blockIdx.y) * loss.height * loss.width * loss.channels;
    const int64_t plane = static_cast<int64_t>(loss.batch) * loss.height * loss.width * loss.channels;
    const float weight = pixel.inside ? loss.weights[pixel.index] : 0.0f;
    const int row = static_cast<int>(threadIdx.x) / kTile, column = static_cast<int>(threadIdx.x) % kTile;
    double sum_l1 = 0.0, sum_ssim = 0.0;
    for (int c = 0; c < loss.channels; ++c) {
        load_halo(loss.image + image + c, loss.height, loss.width, loss.channels, pixel.x0, pixel.y0, xs);
        load_halo(loss.target + image + c, loss.height, loss.width, loss.channels, pixel.x0, pixel.y0, ys);
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < kHaloSide * kTile; i += kBlock) {
            const int r = i / kTile, q = i % kTile;
            float sx = 0.0f, sy = 0.0f, sq = 0.0f, sp = 0.0f;
            for (int k = -kHalf; k <= kHalf; ++k) {
                const float x = xs[r][q + kHalf + k], y = ys[r][q + kHalf + k], t = tap(k);
                sx += t * x;
                sy += t * y;
                sq += t * (x * x + y * y);
                sp += t * x * y;
            }
            rows[0][r][q] = sx;
            rows[1][r][q] = sy;
            rows[2][r][q] = sq;
            rows[3][r][q] = sp;
        }
        __syncthreads();
        float m[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int k = -kHalf; k <= kHalf; ++k)
            for (int q = 0; q < 4; ++q) m[q] += tap(k) * rows[q][row + kHalf + k][column];
        scalar::SsimGrad<float> v;
        const float value = scalar::ssim(m[0], m[1], m[2], m[3], v);
        if (pixel.inside) {
            const int64_t at = pixel.index * loss.channels + c;
            sum_l1 += weight * fabsf(loss.image[at] - loss.target[at]);
            sum_ssim += weight * value;
            if (loss.maps) {
                loss.maps[at] = weight * v.mean;
                loss.maps[plane + at] = weight * v.square;
                loss.maps[2 * plane + at] = weight * v.product;
            }
        }
        __syncthreads();
    }
    const double l1 = block_sum(sum_l1, scratch), ssim = block_sum(sum_ssim, scratch);
    const double weights = block_sum(static_cast<double>(weight) * loss.channels, scratch);
    if (threadIdx.x == 0) {
        double* out = loss.partials + 3 * (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x);
        out[0] = l1;
        out[1] = ssim;
        out[2] = weights;
    }
}

// One block: sums of the tiles in a fixed order; the means go out.
__global__ void __launch_bounds__(kBlock) sum_tiles(Loss loss, int64_t blocks) {
    __shared__ double scratch[kBlock];
    double sums[3];
    for (int k = 0; k < 3; ++k) {
        double sum = 0.0;
        for (int64_t b = threadIdx.x; b < blocks; b += kBlock) sum += loss.partials[3 * b + k];
        sums[k] = block_sum(sum, scratch);
    }
    if (threadIdx.x == 0) {
        const double total = sums[2] > 1.17549435e-38 ? sums[2] : 1.17549435e-38;
        loss.out[0] = static_cast<float>(sums[0] / total);
        loss.out[1] = static_cast<float>(sums[1] / total);
        loss.out[2] = static_cast<float>(total);
    }
}

__global__ void __launch_bounds__(kBlock) ssim_gradient(Loss loss) {
    __shared__ float map[kHaloSide][kHaloSide], rows[kHaloSide][kTile];
    const LossPixel pixel = loss_pixel(loss);
    const int64_t image = static_cast<int64_t>(blockIdx.y) * loss.height * loss.width * loss.channels;
    const int64_t plane = static_cast<int64_t>(loss.batch) * loss.height * loss.width * loss.channels;
    const int row = static_cast<int>(threadIdx.x) / kTile, column = static_cast<int>(threadIdx.x) % kTile;
    for (int c = 0; c < loss.channels; ++c) {
        float windowed[3];
        for (int q = 0; q < 3; ++q) {
            load_halo(loss.maps + q * plane + image + c, loss.height, loss.width, loss.channels, pixel.x0, pixel.y0, map);
            __syncthreads();
            for (int i = static_cast<int>(threadIdx.x); i < kHaloSide * kTile; i += kBlock) {
                float sum = 0.0f;
                for (int k = -kHalf; k <= kHalf; ++k) sum += tap(k) * map[i / kTile][i % kTile + kHalf + k];
                rows[i / kTile][i % kTile] = sum;
            }
            __syncthreads();
            windowed[q] = 0.0f;
            for (int k = -kHalf; k <= kHalf; ++k) windowed[q] += tap(k) * rows[row + kHalf + k][column];
            __syncthreads();
        }
        if (!pixel.inside) continue;
        const int64_t at = pixel.index * loss.channels + c;
        loss.v_ssim_image[at] = windowed[0] + 2.0f * loss.image[at] * windowed[1] + loss.target[at] * windowed[2];
    }
}

__global__ void __launch_bounds__(kBlock) image_gradient(Loss loss, const float* total, const float* v_l1, const float* v_ssim, float* v_image) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
    if (at >= static_cast<int64_t>(loss.batch) * loss.height * loss.width * loss.channels) return;
    const float difference = loss.image[at] - loss.target[at], scale = 1.0f / *total;
    const float sign = difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : 0.0f;
    v_image[at] = *v_l1 * scale * sign * loss.weights[at / loss.channels] + *v_ssim * scale * loss.v_ssim_image[at];
}

dim3 loss_grid(int batch, int height, int width) {
    return dim3(static_cast<unsigned>(((width + kTile - 1) / kTile) * ((height + kTile - 1) / kTile)), static_cast<unsigned>(batch));
}

}  // namespace

}  // namespace avatar::gpu

using namespace avatar;
using namespace avatar::gpu;

extern "C" int avatar_loss_blocks(int batch, int height, int width) {
    const dim3 grid = loss_grid(batch, height, width);
    return static_cast<int>(grid.x * grid.y);
}

extern "C" int avatar_l1_ssim(const Loss* loss, void* stream) {
    const dim3 grid = loss_grid(loss->batch, loss->height, loss->width);
    const auto s = static_cast<cudaStream_t>(stream);
    launch(l1_ssim_tile, grid, kBlock, s, *loss);
    launch(sum_tiles, dim3(1), kBlock, s, *loss, static_cast<int64_t>(grid.x) * grid.y);
    if (loss->maps) launch(ssim_gradient, grid, kBlock, s, *loss);
    return cudaGetLastError();
}

extern "C" int avatar_l1_ssim_backward(const Loss* loss, const float* total, const float* v_l1, const float* v_ssim, float* v_image, void* stream) {
    const int64_t size = static_cast<int64_t>(loss->batch) * loss->height * loss->width * loss->channels;
    launch(image_gradient, dim3(blocks_for(size)), kBlock, static_cast<cudaStream_t>(stream), *loss, total, v_l1, v_ssim, v_image);
    return cudaGetLastError();
}
