// Compiled with -mavx512f/dq/bw/vl; called only where cpuid reports them.
#define AVATAR_NS avx512
#define AVATAR_SCALAR float
#define AVATAR_LANES 16
#define AVATAR_LEVEL kKernelsAvx512
#define AVATAR_LEVEL_NAME "avx512"
#include "level.inl"
