// Which instruction set runs: decided once per process from cpuid.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "rasterizer.h"

namespace avatar {
namespace {

bool runnable(Level level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                      __builtin_cpu_supports("bmi2");
    if (level == Level::kAvx2) return avx2;
    if (level == Level::kAvx512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    return level == Level::kBaseline;
}

const Kernels<float>* kernels(Level level) {
#if defined(__x86_64__)
    if (level == Level::kAvx512) return &kKernelsAvx512;
    if (level == Level::kAvx2) return &kKernelsAvx2;
#endif
    return level == Level::kBaseline ? &kKernelsBaseline : nullptr;
}

constexpr struct { Level level; const char* name; } kLevels[] = {
    {Level::kAvx512, "avx512"}, {Level::kAvx2, "avx2"}, {Level::kBaseline, "baseline"}};

}  // namespace

std::vector<const char*> runnable_levels() {
    std::vector<const char*> names;
    for (const auto& l : kLevels)
        if (runnable(l.level)) names.push_back(l.name);
    return names;
}

const Kernels<float>& choose_kernels(const float*) {
    const char* wish = std::getenv("AVATAR_SIMD");
    for (const auto& l : kLevels) {
        if (wish && *wish && std::strcmp(wish, l.name) != 0) continue;
        if (runnable(l.level)) return *kernels(l.level);
    }
    std::string names;
    for (const char* name : runnable_levels()) names += std::string(names.empty() ? "" : ", ") + name;
    throw std::runtime_error("AVATAR_SIMD=" + std::string(wish ? wish : "") + " cannot run here; use one of: " + names + ".");
}

const Kernels<double>& choose_kernels(const double*) { return kKernelsDouble; }

}  // namespace avatar
