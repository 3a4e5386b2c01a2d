// Vec<S, W>: W lanes of S in as many machine registers as that takes, on top of the compiler's vector extension (GCC and
// Clang), with the functions of scalar_ops.h. One source for SSE2, AVX2, AVX-512 and NEON: the file's compile flags
// decide the instructions. Intrinsics appear only where the compiler has no portable spelling.
#pragma once
#include "../include/avatar/scalar_ops.h"
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace avatar {
namespace AVATAR_NS {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define AVATAR_AVX512 1
constexpr int kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

template <class S> struct IntOf;
template <> struct IntOf<float> { using type = int32_t; };
template <> struct IntOf<double> { using type = int64_t; };

template <class S, int W> struct Register { typedef S type __attribute__((vector_size(sizeof(S) * W))); };

template <class S, int W> struct Shape {
    static constexpr int kLanes = W * static_cast<int>(sizeof(S)) < kRegisterBytes ? W : kRegisterBytes / static_cast<int>(sizeof(S));
    static constexpr int kRegisters = W / kLanes;
    using Reg = typename Register<S, kLanes>::type;
    using IntReg = typename Register<typename IntOf<S>::type, kLanes>::type;
};

template <class S, int W> struct Mask {
    typename Shape<S, W>::IntReg m[Shape<S, W>::kRegisters];  // all bits of a lane set or none
};

template <class S, int W> struct Vec {
    using Reg = typename Shape<S, W>::Reg;
    static constexpr int kRegisters = Shape<S, W>::kRegisters, kLanes = Shape<S, W>::kLanes;
    Reg v[kRegisters];
    AVATAR_HD Vec() {}
    AVATAR_HD explicit Vec(double s) { fill(static_cast<S>(s)); }
    AVATAR_HD explicit Vec(float s) { fill(static_cast<S>(s)); }
    AVATAR_HD explicit Vec(int s) { fill(static_cast<S>(s)); }
    AVATAR_HD void fill(S s) { for (int i = 0; i < kRegisters; ++i) v[i] = s - Reg{}; }
    static AVATAR_HD Vec load(const S* p) { Vec r; __builtin_memcpy(&r.v, p, sizeof r.v); return r; }
    AVATAR_HD void store(S* p) const { __builtin_memcpy(p, &v, sizeof v); }
    AVATAR_HD S lane(int i) const { return v[i / kLanes][i % kLanes]; }
};

#define AVATAR_VEC template <class S, int W> AVATAR_HD
#define AVATAR_EACH for (int i = 0; i < Shape<S, W>::kRegisters; ++i)
AVATAR_VEC Vec<S, W> operator+(Vec<S, W> a, Vec<S, W> b) { Vec<S, W> r; AVATAR_EACH r.v[i] = a.v[i] + b.v[i]; return r; }
AVATAR_VEC Vec<S, W> operator-(Vec<S, W> a, Vec<S, W> b) { Vec<S, W> r; AVATAR_EACH r.v[i] = a.v[i] - b.v[i]; return r; }
AVATAR_VEC Vec<S, W> operator*(Vec<S, W> a, Vec<S, W> b) { Vec<S, W> r; AVATAR_EACH r.v[i] = a.v[i] * b.v[i]; return r; }
AVATAR_VEC Vec<S, W> operator/(Vec<S, W> a, Vec<S, W> b) { Vec<S, W> r; AVATAR_EACH r.v[i] = a.v[i] / b.v[i]; return r; }
AVATAR_VEC Mask<S, W> less(Vec<S, W> a, Vec<S, W> b) { Mask<S, W> r; AVATAR_EACH r.m[i] = a.v[i] < b.v[i]; return r; }
AVATAR_VEC Mask<S, W> at_least(Vec<S, W> a, Vec<S, W> b) { Mask<S, W> r; AVATAR_EACH r.m[i] = a.v[i] >= b.v[i]; return r; }
AVATAR_VEC Mask<S, W> operator&(Mask<S, W> a, Mask<S, W> b) { AVATAR_EACH a.m[i] &= b.m[i]; return a; }
AVATAR_VEC Vec<S, W> select(Mask<S, W> m, Vec<S, W> a, Vec<S, W> b) {
    Vec<S, W> r;
    AVATAR_EACH r.v[i] = m.m[i] ? a.v[i] : b.v[i];
    return r;
}

// One register's worth of what has no portable spelling; plain C++ first, then the instruction sets.
template <class I> AVATAR_HD uint32_t register_bits(I m) {
    uint32_t r = 0;
    for (int l = 0; l < static_cast<int>(sizeof(m) / sizeof(m[0])); ++l) r |= (m[l] ? 1u : 0u) << l;
    return r;
}
template <class R> AVATAR_HD R register_sqrt(R a) {
    for (int l = 0; l < static_cast<int>(sizeof(a) / sizeof(a[0])); ++l) a[l] = square_root(a[l]);
    return a;
}
template <class R> AVATAR_HD R register_reciprocal(R a) { return 1 / a; }
#if defined(__SSE2__)
AVATAR_HD uint32_t register_bits(Register<int32_t, 4>::type m) { return static_cast<uint32_t>(_mm_movemask_ps((__m128)m)); }
AVATAR_HD Register<float, 4>::type register_sqrt(Register<float, 4>::type a) { return _mm_sqrt_ps(a); }
AVATAR_HD Register<float, 4>::type register_reciprocal(Register<float, 4>::type a) {
    const __m128 r = _mm_rcp_ps(a);  // 12 bits, and a Newton step
    return r * (2.0f - a * r);
}
#endif
#if defined(__AVX__)
AVATAR_HD uint32_t register_bits(Register<int32_t, 8>::type m) { return static_cast<uint32_t>(_mm256_movemask_ps((__m256)m)); }
AVATAR_HD Register<float, 8>::type register_sqrt(Register<float, 8>::type a) { return _mm256_sqrt_ps(a); }
AVATAR_HD Register<float, 8>::type register_reciprocal(Register<float, 8>::type a) {
    const __m256 r = _mm256_rcp_ps(a);
    return r * (2.0f - a * r);
}
#endif
#if defined(AVATAR_AVX512)
AVATAR_HD Register<float, 16>::type register_sqrt(Register<float, 16>::type a) { return _mm512_sqrt_ps(a); }
AVATAR_HD Register<float, 16>::type register_reciprocal(Register<float, 16>::type a) {
    const __m512 r = _mm512_rcp14_ps(a);
    return r * (2.0f - a * r);
}
#endif
#if defined(__aarch64__)
AVATAR_HD uint32_t register_bits(Register<int32_t, 4>::type m) {
    const Register<int32_t, 4>::type places = {1, 2, 4, 8};
    return static_cast<uint32_t>(vaddvq_s32((int32x4_t)(m & places)));
}
AVATAR_HD Register<float, 4>::type register_sqrt(Register<float, 4>::type a) {
    return (Register<float, 4>::type)vsqrtq_f32((float32x4_t)a);
}
#endif

// Bit l is set where lane l is.
AVATAR_VEC uint32_t bits(Mask<S, W> a) {
    uint32_t r = 0;
    AVATAR_EACH r |= register_bits(a.m[i]) << (i * Shape<S, W>::kLanes);
    return r;
}
AVATAR_VEC Vec<S, W> square_root(Vec<S, W> a) { AVATAR_EACH a.v[i] = register_sqrt(a.v[i]); return a; }
AVATAR_VEC Vec<S, W> reciprocal(Vec<S, W> a) { AVATAR_EACH a.v[i] = register_reciprocal(a.v[i]); return a; }
template <class S, int W, class F> AVATAR_HD Vec<S, W> lane_by_lane(Vec<S, W> a, F f) {
    alignas(64) S lanes[W];
    a.store(lanes);
    for (int l = 0; l < W; ++l) lanes[l] = f(lanes[l]);
    return Vec<S, W>::load(lanes);
}
AVATAR_VEC Vec<S, W> logarithm2(Vec<S, W> a) { return lane_by_lane(a, [](S x) { return logarithm2(x); }); }

// 2^x for -126 < x < 127, relative error below 2e-7: exponent by the add-and-shift trick, then a degree-5 minimax fit of
// 2^f on -1/2..1/2 (9e-8 before rounding). Other x give garbage, never a trap; callers mask them.
template <int W> AVATAR_HD Vec<float, W> exponential2(Vec<float, W> x) {
    using Shp = Shape<float, W>;
    Vec<float, W> r;
    for (int i = 0; i < Shp::kRegisters; ++i) {
        const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
        const typename Shp::Reg shifted = x.v[i] + magic, f = x.v[i] - (shifted - magic);
        typename Shp::Reg p = 1.3264727261e-03f * f + 9.6715127561e-03f;
        p = p * f + 5.5507337442e-02f;
        p = p * f + 2.4022242084e-01f;
        p = p * f + 6.9314697760e-01f;
        p = p * f + 1.0f;
        // the bits of `magic` fall out at the top
        r.v[i] = (typename Shp::Reg)((typename Shp::IntReg)p + ((typename Shp::IntReg)shifted << 23));
    }
    return r;
}
template <int W> AVATAR_HD Vec<double, W> exponential2(Vec<double, W> a) {
    return lane_by_lane(a, [](double x) { return exponential2(x); });
}
template <int W> AVATAR_HD Vec<float, W> exponential(Vec<float, W> a) {
    using V = Vec<float, W>;  // saturates instead of wrapping
    a = select(less(a, V(-87.0f)), V(-87.0f), select(less(V(87.0f), a), V(87.0f), a));
    const V magic(12582912.0f), log2e(static_cast<float>(kLog2E));
    const V n = (a * log2e + magic) - magic;
    const V rest = (a - n * V(0.693145751953125f)) - n * V(1.42860677e-6f);  // ln 2 in two parts keeps the last digits
    return exponential2(n) * exponential2(rest * log2e);
}
template <int W> AVATAR_HD Vec<double, W> exponential(Vec<double, W> a) {
    return lane_by_lane(a, [](double x) { return exponential(x); });
}

#if defined(AVATAR_AVX512)
template <> struct Mask<float, 16> { __mmask16 m; };
AVATAR_HD Mask<float, 16> less(Vec<float, 16> a, Vec<float, 16> b) { return {_mm512_cmp_ps_mask(a.v[0], b.v[0], _CMP_LT_OQ)}; }
AVATAR_HD Mask<float, 16> at_least(Vec<float, 16> a, Vec<float, 16> b) { return {_mm512_cmp_ps_mask(a.v[0], b.v[0], _CMP_GE_OQ)}; }
AVATAR_HD Mask<float, 16> operator&(Mask<float, 16> a, Mask<float, 16> b) { return {static_cast<__mmask16>(a.m & b.m)}; }
AVATAR_HD Vec<float, 16> select(Mask<float, 16> m, Vec<float, 16> a, Vec<float, 16> b) {
    a.v[0] = _mm512_mask_blend_ps(m.m, b.v[0], a.v[0]);
    return a;
}
AVATAR_HD uint32_t bits(Mask<float, 16> a) { return a.m; }
#endif

// Minimum and maximum in the order the machine has: the second operand when either is NaN.
AVATAR_VEC Vec<S, W> minimum(Vec<S, W> a, Vec<S, W> b) { return select(less(a, b), a, b); }
AVATAR_VEC Vec<S, W> maximum(Vec<S, W> a, Vec<S, W> b) { return select(less(b, a), a, b); }
#if defined(AVATAR_AVX512)
AVATAR_HD Vec<float, 16> minimum(Vec<float, 16> a, Vec<float, 16> b) { a.v[0] = _mm512_min_ps(a.v[0], b.v[0]); return a; }
AVATAR_HD Vec<float, 16> maximum(Vec<float, 16> a, Vec<float, 16> b) { a.v[0] = _mm512_max_ps(a.v[0], b.v[0]); return a; }
#endif
#if defined(__AVX__)
AVATAR_HD Vec<float, 8> minimum(Vec<float, 8> a, Vec<float, 8> b) { a.v[0] = _mm256_min_ps(a.v[0], b.v[0]); return a; }
AVATAR_HD Vec<float, 8> maximum(Vec<float, 8> a, Vec<float, 8> b) { a.v[0] = _mm256_max_ps(a.v[0], b.v[0]); return a; }
#elif defined(__SSE2__)
AVATAR_HD Vec<float, 8> minimum(Vec<float, 8> a, Vec<float, 8> b) { for (int i = 0; i < 2; ++i) a.v[i] = _mm_min_ps(a.v[i], b.v[i]); return a; }
AVATAR_HD Vec<float, 8> maximum(Vec<float, 8> a, Vec<float, 8> b) { for (int i = 0; i < 2; ++i) a.v[i] = _mm_max_ps(a.v[i], b.v[i]); return a; }
#endif
#undef AVATAR_EACH
#undef AVATAR_VEC

template <class S> AVATAR_HD S sum(Vec<S, 8> a) {
    return ((a.lane(0) + a.lane(4)) + (a.lane(2) + a.lane(6))) + ((a.lane(1) + a.lane(5)) + (a.lane(3) + a.lane(7)));
}

// Sum of each of 8 vectors, in lanes 0..7: a butterfly of 7 additions instead of 8 horizontal sums.
template <class S> AVATAR_HD Vec<S, 8> sum_each(const Vec<S, 8> a[8]) {
    Vec<S, 8> r;
    if constexpr (Vec<S, 8>::kLanes == 8) {
        typename Vec<S, 8>::Reg t[4], q[2];
        for (int i = 0; i < 4; ++i)
            t[i] = __builtin_shufflevector(a[2 * i].v[0], a[2 * i + 1].v[0], 0, 8, 2, 10, 4, 12, 6, 14) +
                   __builtin_shufflevector(a[2 * i].v[0], a[2 * i + 1].v[0], 1, 9, 3, 11, 5, 13, 7, 15);
        for (int i = 0; i < 2; ++i)
            q[i] = __builtin_shufflevector(t[2 * i], t[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                   __builtin_shufflevector(t[2 * i], t[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
        r.v[0] = __builtin_shufflevector(q[0], q[1], 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(q[0], q[1], 4, 5, 6, 7, 12, 13, 14, 15);
    } else if constexpr (Vec<S, 8>::kLanes == 4) {
        for (int n = 0; n < 2; ++n) {
            typename Vec<S, 8>::Reg h[4], t[2];
            for (int i = 0; i < 4; ++i) h[i] = a[4 * n + i].v[0] + a[4 * n + i].v[1];
            for (int i = 0; i < 2; ++i)
                t[i] = __builtin_shufflevector(h[2 * i], h[2 * i + 1], 0, 4, 2, 6) + __builtin_shufflevector(h[2 * i], h[2 * i + 1], 1, 5, 3, 7);
            r.v[n] = __builtin_shufflevector(t[0], t[1], 0, 1, 4, 5) + __builtin_shufflevector(t[0], t[1], 2, 3, 6, 7);
        }
    } else {
        alignas(64) S lanes[8];
        for (int i = 0; i < 8; ++i) lanes[i] = sum(a[i]);
        r = Vec<S, 8>::load(lanes);
    }
    return r;
}
template <class S> AVATAR_HD Vec<S, 8> fold(Vec<S, 8> a) { return a; }
template <class S> AVATAR_HD Vec<S, 8> fold(Vec<S, 16> a) {
    alignas(64) S lanes[16];
    a.store(lanes);
    return Vec<S, 8>::load(lanes) + Vec<S, 8>::load(lanes + 8);
}

}  // namespace AVATAR_NS
}  // namespace avatar
