// What every x86-64 (SSE2) or arm64 (NEON) machine runs; the compiler splits the 8 lanes into registers of 4.
#define AVATAR_NS baseline
#define AVATAR_SCALAR float
#define AVATAR_LANES 8
#define AVATAR_LEVEL kKernelsBaseline
#define AVATAR_LEVEL_NAME "baseline"
#include "level.inl"
