// CUDA's execution model on the host, for tests: each thread of a block is a fibre, blocks run one after the other.
//
// Fibres switch only where CUDA threads wait for each other (__syncthreads, __syncwarp, shuffles, ballots), so a run is
// deterministic. A barrier that some thread never reaches is an error here (a hang or undefined on a GPU): the run
// throws. `__shared__` becomes `static`: blocks run one at a time. Atomics are plain additions.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __host__
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define __forceinline__ inline

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, kEmulationError = 999;

namespace avatar {
namespace simt {

constexpr int kLanes = 32;
constexpr size_t kStack = 128 << 10;

enum class Wait { kNone, kWarp, kBlock, kDone };

// Fibres are entered with ucontext once and then switched with setjmp and longjmp, which make no system call.
struct Fibre {
    ucontext_t context;
    jmp_buf point;
    bool entered = false;
    std::vector<char> stack;
    Wait wait = Wait::kNone;
    const char* where = "";
    int collectives = 0;  // of its warp, so far: picks one of two exchange buffers
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
#endif
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<uint64_t> exchange;  // 2 x one word per thread
    std::vector<int> votes;          // 2 x one per thread, for block-wide votes
    jmp_buf scheduler;
    int current = 0;
    int block_votes = 0;
    const std::function<void()>* body = nullptr;
    std::string error;
#if defined(__SANITIZE_ADDRESS__)
    const void* main_stack = nullptr;
    size_t main_size = 0;
    void* main_fake = nullptr;
#endif
};

inline Block& block() {
    static Block b;
    return b;
}
inline std::string& last_error() {
    static std::string text;
    return text;
}

inline cudaError_t& pending_error() {
    static cudaError_t code = cudaSuccess;
    return code;
}

inline void to_scheduler() {
    Block& b = block();
    Fibre& f = b.fibres[b.current];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&f.fake_stack, b.main_stack, b.main_size);
#endif
    if (!_setjmp(f.point)) _longjmp(b.scheduler, 1);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(block().fibres[block().current].fake_stack, &b.main_stack, &b.main_size);
#endif
}

inline void wait_for(Wait what, const char* where) {
    Fibre& f = block().fibres[block().current];
    f.wait = what;
    f.where = where;
    to_scheduler();
}

inline void fibre_main() {
    Block& b = block();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &b.main_stack, &b.main_size);
#endif
    for (;;) {  // once per block
        (*b.body)();
        b.fibres[b.current].wait = Wait::kDone;
        to_scheduler();
    }
}

}  // namespace simt
}  // namespace avatar

struct SimtIndex { unsigned x, y, z; };
inline SimtIndex threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace avatar {
namespace simt {

inline void resume(int thread) {
    Block& b = block();  // static: survives the jump, unlike a local that the compiler keeps in a register
    b.current = thread;
    threadIdx = {static_cast<unsigned>(thread), 0, 0};
    Fibre& f = b.fibres[thread];
    f.wait = Wait::kNone;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&b.main_fake, f.stack.data(), f.stack.size());
#endif
    if (!_setjmp(b.scheduler)) {
        if (f.entered) _longjmp(f.point, 1);
        f.entered = true;
        setcontext(&f.context);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(b.main_fake, nullptr, nullptr);
#endif
}

inline void run_block(int threads) {
    Block& b = block();
    for (int t = 0; t < threads; ++t) {
        Fibre& f = b.fibres[t];
        f.wait = Wait::kNone;
        f.collectives = 0;
    }
    for (int t = 0; t < threads; ++t) resume(t);
    for (;;) {
        bool progress = false, all_done = true, all_at_block = true;
        for (int w = 0; w < threads; w += kLanes) {
            const int end = std::min(threads, w + kLanes);
            bool together = true;
            for (int t = w; t < end; ++t) {
                together &= b.fibres[t].wait == Wait::kWarp;
                all_done &= b.fibres[t].wait == Wait::kDone;
                all_at_block &= b.fibres[t].wait == Wait::kBlock;
            }
            if (!together) continue;
            progress = true;
            for (int t = w; t < end; ++t) resume(t);
        }
        if (all_done) return;
        if (all_at_block) {
            progress = true;
            for (int t = 0; t < threads; ++t) resume(t);
        }
        if (progress) continue;
        for (const Fibre& f : b.fibres)
            if (f.wait != Wait::kDone && b.error.empty()) b.error = std::string("not all threads reach ") + f.where;
        const std::string error = b.error;
        b.fibres.clear();  // they stand in the middle of the kernel
        throw std::runtime_error(error);
    }
}

// A value per lane, exchanged within the warp: `pick` chooses from the 32 words.
template <class T, class Pick> auto exchange(T value, const char* where, Pick pick) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "one word");
    Block& b = block();
    const int me = b.current, half = b.fibres[me].collectives++ & 1;
    uint64_t* const words = b.exchange.data() + half * b.fibres.size();
    std::memcpy(words + me, &value, sizeof value);
    wait_for(Wait::kWarp, where);
    return pick(words + me / kLanes * kLanes);
}

template <class T> T word_as(uint64_t word) {
    T value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

}  // namespace simt

using half_t = _Float16;
inline float to_float(half_t x) { return static_cast<float>(x); }

template <class... P, class... A> void launch(void (*kernel)(P...), dim3 grid, int threads, cudaStream_t, A... arguments) {
    using namespace simt;
    if (threads % kLanes) throw std::logic_error("blocks are whole warps");
    Block& b = block();
    if (static_cast<int>(b.fibres.size()) != threads) {
        b.fibres = std::vector<Fibre>(static_cast<size_t>(threads));
        for (Fibre& f : b.fibres) {
            f.stack.resize(kStack);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, fibre_main, 0);
        }
        b.exchange.assign(2 * static_cast<size_t>(threads), 0);
        b.votes.assign(2 * static_cast<size_t>(threads), 0);
    }
    const std::function<void()> body = [&] { kernel(P(arguments)...); };
    b.body = &body;
    b.error.clear();
    gridDim = grid;
    blockDim = dim3(static_cast<unsigned>(threads));
    try {
        for (unsigned z = 0; z < grid.z; ++z)
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    blockIdx = {x, y, z};
                    run_block(threads);
                }
    } catch (const std::exception& error) {  // as on a device: the next question for errors gets it
        last_error() = error.what();
        pending_error() = kEmulationError;
    }
}
}  // namespace avatar

inline void __syncthreads() { avatar::simt::wait_for(avatar::simt::Wait::kBlock, "__syncthreads"); }
inline void __syncwarp(unsigned = ~0u) { avatar::simt::wait_for(avatar::simt::Wait::kWarp, "__syncwarp"); }
inline int __syncthreads_or(int predicate) {
    auto& b = avatar::simt::block();
    b.votes[b.current] = predicate;
    __syncthreads();
    int any = 0;
    for (size_t t = 0; t < b.fibres.size(); ++t) any |= b.votes[t];
    __syncthreads();
    return any != 0;
}
template <class T> T __shfl_sync(unsigned, T value, int source) {
    return avatar::simt::exchange(value, "__shfl_sync", [&](const uint64_t* w) { return avatar::simt::word_as<T>(w[source & 31]); });
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    return avatar::simt::exchange(value, "__shfl_xor_sync", [&](const uint64_t* w) { return avatar::simt::word_as<T>(w[lane ^ mask]); });
}
template <class T> T __shfl_up_sync(unsigned, T value, unsigned delta) {
    const int lane = static_cast<int>(threadIdx.x & 31), from = lane - static_cast<int>(delta);
    return avatar::simt::exchange(value, "__shfl_up_sync", [&](const uint64_t* w) { return avatar::simt::word_as<T>(w[from < 0 ? lane : from]); });
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    return avatar::simt::exchange(predicate, "__ballot_sync", [](const uint64_t* w) {
        unsigned bits = 0;
        for (int l = 0; l < 32; ++l) bits |= static_cast<unsigned>(avatar::simt::word_as<int>(w[l]) != 0) << l;
        return bits;
    });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) { return avatar::simt::word_as<unsigned>(avatar::simt::word_as<uint32_t>([&] { uint64_t w = 0; std::memcpy(&w, &x, 4); return w; }())); }
template <class T> T atomicAdd(T* address, T value) {
    const T before = *address;
    *address = before + value;
    return before;
}

inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
    std::memset(p, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return std::exchange(avatar::simt::pending_error(), cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t) { return avatar::simt::last_error().c_str(); }

// The two CUB algorithms that the kernels use, as equivalent host functions.
namespace cub {
struct DeviceRadixSort {
    template <class K, class V>
    static cudaError_t SortPairs(void* temporary, size_t& bytes, const K* keys, K* keys_out, const V* values, V* values_out, int n,
                                 int first_bit, int last_bit, cudaStream_t) {
        if (!temporary) {
            bytes = 1;
            return cudaSuccess;
        }
        const int width = last_bit - first_bit;
        const K mask = width >= static_cast<int>(8 * sizeof(K)) ? ~K(0) : ((K(1) << width) - 1);
        std::vector<int> order(static_cast<size_t>(n));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return (keys[a] >> first_bit & mask) < (keys[b] >> first_bit & mask); });
        for (int i = 0; i < n; ++i) {
            keys_out[i] = keys[order[i]];
            values_out[i] = values[order[i]];
        }
        return cudaSuccess;
    }
};
struct DeviceScan {
    template <class In, class Out>
    static cudaError_t ExclusiveSum(void* temporary, size_t& bytes, In in, Out out, int n, cudaStream_t) {
        if (!temporary) {
            bytes = 1;
            return cudaSuccess;
        }
        std::exclusive_scan(in, in + n, out, typename std::iterator_traits<Out>::value_type(0));
        return cudaSuccess;
    }
};
}  // namespace cub
