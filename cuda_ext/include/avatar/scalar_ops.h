// The handful of functions the formulas need, for plain float and double on host and device. cpu/simd.h adds the same
// names for SIMD vectors, so that one formula serves one pixel of a CUDA thread and sixteen lanes of a CPU register.
#pragma once
#include "config.h"
#if defined(__CUDACC__)
#include <math.h>
#endif

namespace avatar {
namespace AVATAR_NS {

AVATAR_HD bool less(float a, float b) { return a < b; }
AVATAR_HD bool less(double a, double b) { return a < b; }
AVATAR_HD bool at_least(float a, float b) { return a >= b; }
AVATAR_HD bool at_least(double a, double b) { return a >= b; }
AVATAR_HD float select(bool m, float a, float b) { return m ? a : b; }
AVATAR_HD double select(bool m, double a, double b) { return m ? a : b; }
#if defined(__CUDACC__)
AVATAR_HD float square_root(float x) { return sqrtf(x); }
AVATAR_HD double square_root(double x) { return sqrt(x); }
AVATAR_HD float exponential(float x) { return expf(x); }
AVATAR_HD double exponential(double x) { return exp(x); }
AVATAR_HD float exponential2(float x) { return exp2f(x); }
AVATAR_HD double exponential2(double x) { return exp2(x); }
AVATAR_HD float logarithm2(float x) { return log2f(x); }
AVATAR_HD double logarithm2(double x) { return log2(x); }
#else  // builtins instead of <cmath>: its inline overloads would be shared between instruction sets (see AVATAR_NS)
AVATAR_HD float square_root(float x) { return __builtin_sqrtf(x); }
AVATAR_HD double square_root(double x) { return __builtin_sqrt(x); }
AVATAR_HD float exponential(float x) { return __builtin_expf(x); }
AVATAR_HD double exponential(double x) { return __builtin_exp(x); }
AVATAR_HD float exponential2(float x) { return __builtin_exp2f(x); }
AVATAR_HD double exponential2(double x) { return __builtin_exp2(x); }
AVATAR_HD float logarithm2(float x) { return __builtin_log2f(x); }
AVATAR_HD double logarithm2(double x) { return __builtin_log2(x); }
#endif
AVATAR_HD float reciprocal(float x) { return 1.0f / x; }
AVATAR_HD double reciprocal(double x) { return 1.0 / x; }

}  // namespace AVATAR_NS
}  // namespace avatar
