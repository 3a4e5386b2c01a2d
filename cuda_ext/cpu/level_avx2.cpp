// Compiled with -mavx2 -mfma; called only where cpuid reports them.
#define AVATAR_NS avx2
#define AVATAR_SCALAR float
#define AVATAR_LANES 8
#define AVATAR_LEVEL kKernelsAvx2
#define AVATAR_LEVEL_NAME "avx2"
#include "level.inl"
