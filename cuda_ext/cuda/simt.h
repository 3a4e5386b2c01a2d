// What the kernels see of CUDA: the real thing under nvcc, its emulation under a host compiler.
//
// With AVATAR_SIMT_EMULATION the very same .cu sources compile with g++ and run block by block on the host, so the
// tests execute every kernel's code where there is no GPU (tests/raster/test_cuda_kernels.py).
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(AVATAR_SIMT_EMULATION)
#include "emulation/simt_emulation.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace avatar {
using half_t = __half;
__host__ __device__ inline float to_float(half_t x) { return __half2float(x); }

template <class... P, class... A> void launch(void (*kernel)(P...), dim3 grid, int block, cudaStream_t stream, A... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    kernel<<<grid, block, 0, stream>>>(P(arguments)...);
}
}  // namespace avatar
#endif

namespace avatar {
__host__ __device__ inline float to_float(float x) { return x; }

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kBlock = 256, kWarps = kBlock / 32;
inline unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kBlock - 1) / kBlock); }

// Sums Count values over the warp's lanes in fixed order. Afterwards lane l holds the total of value l / (32 / Count)
// in values[0]: halving the set at every exchange takes about Count shuffles instead of 5 Count. The recursion keeps all
// indices constant, or the array would live in memory.
template <int Kept, int Distance, int Count> __device__ inline void warp_sums_from(float (&values)[Count]) {
    if constexpr (Kept >= 1) {
        const bool upper = threadIdx.x & Distance;
#pragma unroll
        for (int i = 0; i < Kept; ++i) {
            const float mine = upper ? values[Kept + i] : values[i], other = upper ? values[i] : values[Kept + i];
            values[i] = mine + __shfl_xor_sync(kFullWarp, other, Distance);
        }
        warp_sums_from<Kept / 2, Distance / 2>(values);
    } else if constexpr (Distance >= 1) {
        values[0] += __shfl_xor_sync(kFullWarp, values[0], Distance);
        warp_sums_from<0, Distance / 2>(values);
    }
}
template <int Count> __device__ inline void warp_sums(float (&values)[Count]) {
    static_assert(Count == 8 || Count == 16 || Count == 32, "a power of two that divides the warp");
    warp_sums_from<Count / 2, 16>(values);
}

// Exclusive prefix sum over the block's threads; `total` is the sum of all. `scratch` has kWarps + 1 numbers.
__device__ inline int block_prefix_sum(int value, int* scratch, int& total) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    int inclusive = value;
    for (int d = 1; d < 32; d *= 2) {
        const int below = __shfl_up_sync(kFullWarp, inclusive, d);
        if (lane >= d) inclusive += below;
    }
    if (lane == 31) scratch[warp] = inclusive;
    __syncthreads();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int w = 0; w < kWarps; ++w) {
            const int count = scratch[w];
            scratch[w] = sum;
            sum += count;
        }
        scratch[kWarps] = sum;
    }
    __syncthreads();
    const int before = scratch[warp] + inclusive - value;
    total = scratch[kWarps];
    __syncthreads();
    return before;
}
}  // namespace avatar
