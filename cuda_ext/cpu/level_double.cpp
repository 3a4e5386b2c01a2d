// The same kernels in double precision, for gradient checks; speed is no aim here.
#define AVATAR_NS double_precision
#define AVATAR_SCALAR double
#define AVATAR_LANES 8
#define AVATAR_LEVEL kKernelsDouble
#define AVATAR_LEVEL_NAME "double"
#include "level.inl"
