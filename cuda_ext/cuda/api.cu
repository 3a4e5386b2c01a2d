// The C interface (api.h): the order of work.
#include <cstdio>

#include "kernels.h"

using namespace avatar;
using namespace avatar::gpu;

extern "C" int avatar_draw(const Scene* scene, const Buffers* buffers, void* stream) {
    const auto s = static_cast<cudaStream_t>(stream);
    if (scene->splats > 0 && scene->batch > 0) {
        animate_and_project(*scene, *buffers, s);
        const cudaError_t error = sort_and_mark(*scene, *buffers, s);
        if (error != cudaSuccess) return error;
    }
    blend_tiles(*scene, *buffers, s);
    return cudaGetLastError();
}

extern "C" int avatar_slots(const Scene* scene, const Buffers* buffers, int32_t* counts, int32_t* slot_start, void* stream) {
    const cudaError_t error = find_slots(*scene, *buffers, counts, slot_start, static_cast<cudaStream_t>(stream));
    return error != cudaSuccess ? error : cudaGetLastError();
}

extern "C" int avatar_draw_backward(const Scene* scene, const Buffers* buffers, const Gradients* gradients, void* stream) {
    const auto s = static_cast<cudaStream_t>(stream);
    blend_tiles_backward(*scene, *buffers, *gradients, s);
    if (scene->batch > 0) project_and_animate_backward(*scene, *buffers, *gradients, s);
    return cudaGetLastError();
}

extern "C" int64_t avatar_sort_bytes(int batch, int splats) { return sort_bytes(splats, batch); }

extern "C" int64_t avatar_mask_words(int batch, int splats, int width, int height) {
    const Cells cells = cells_of(width, height);
    return static_cast<int64_t>(batch) * cells.columns * cells.rows * ((splats + 31) / 32);
}

extern "C" int avatar_record_stride(int channels) { return record_stride(channels); }
extern "C" int avatar_blocks(int threads) { return static_cast<int>(blocks_for(threads)); }
extern "C" int avatar_animate_blocks(int count) { return animate_blocks(count); }
extern "C" const char* avatar_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

extern "C" const char* avatar_layout() {
    static char text[96];
    std::snprintf(text, sizeof text, "%zu %zu %zu %zu %zu %zu", sizeof(Branch), sizeof(Scene), sizeof(Buffers), sizeof(Gradients), sizeof(Loss),
                  sizeof(Sh));
    return text;
}
