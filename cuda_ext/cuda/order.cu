// Front-to-back order of every frame's splats, and which of them reach which part of the image.
//
// Lists of (tile, splat) pairs, as 3DGS sorts them, have a length that only the device knows: the host would have to
// wait for it to allocate them. Here the splats of a frame are sorted once, and one bit per splat and cell (a square of
// tiles) says whether it may reach the cell: a fixed, small amount of memory. Tiles read the bits of their cell and test
// the splats exactly (blend.cu).
#include "kernels.h"

#if !defined(AVATAR_SIMT_EMULATION)
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace avatar::gpu {

namespace {

// Warp = 32 splats that follow each other in the order; its lanes share the cells out among themselves.
__global__ void __launch_bounds__(kBlock) mark_cells(Scene scene, Buffers out, Cells cells, int words) {
    const int word = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int frame = static_cast<int>(blockIdx.y), at = word * 32 + lane;
    if (word >= words) return;
    int x0 = 1, y0 = 1, x1 = 0, y1 = 0;  // in cells
    if (at < scene.splats) {
        const int64_t base = static_cast<int64_t>(frame) * scene.splats;
        const uint16_t* box = out.boxes + 4 * (base + out.order[base + at]);
        if (box[2] >= box[0]) {
            x0 = box[0] / cells.tiles;
            y0 = box[1] / cells.tiles;
            x1 = box[2] / cells.tiles;
            y1 = box[3] / cells.tiles;
        }
    }
    const int count = cells.columns * cells.rows;
    uint32_t* const masks = out.masks + static_cast<int64_t>(frame) * count * words + word;
    for (int first = 0; first < count; first += 32) {
        uint32_t mine = 0;
        const int here = count - first < 32 ? count - first : 32;
        for (int c = 0; c < here; ++c) {
            const int x = (first + c) % cells.columns, y = (first + c) / cells.columns;
            const unsigned reached = __ballot_sync(kFullWarp, x0 <= x && x <= x1 && y0 <= y && y <= y1);
            if (c == lane) mine = reached;
        }
        if (lane < here) masks[static_cast<int64_t>(first + lane) * words] = mine;
    }
}

__global__ void __launch_bounds__(kBlock) box_sizes(Buffers in, int64_t n, int32_t* counts) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
    if (i > n) return;
    int size = 0;
    if (i < n) {
        const uint16_t* box = in.boxes + 4 * i;
        if (box[2] >= box[0]) size = (box[2] - box[0] + 1) * (box[3] - box[1] + 1);
    }
    counts[i] = size;
}

}  // namespace

int64_t sort_bytes(int64_t splats, int batch) {
    size_t sort = 0, scan = 0;
    const int n = static_cast<int>(splats * batch);
    cub::DeviceRadixSort::SortPairs(nullptr, sort, static_cast<const uint64_t*>(nullptr), static_cast<uint64_t*>(nullptr),
                                    static_cast<const int32_t*>(nullptr), static_cast<int32_t*>(nullptr), n, 0, 64, nullptr);
    cub::DeviceScan::ExclusiveSum(nullptr, scan, static_cast<const int32_t*>(nullptr), static_cast<int32_t*>(nullptr), n + 1, nullptr);
    return static_cast<int64_t>(sort > scan ? sort : scan);
}

cudaError_t sort_and_mark(const Scene& scene, const Buffers& b, cudaStream_t stream) {
    int frame_bits = 0;
    while ((int64_t(1) << frame_bits) < scene.batch) ++frame_bits;
    size_t bytes = static_cast<size_t>(b.temporary_bytes);
    const cudaError_t error =
        cub::DeviceRadixSort::SortPairs(b.temporary, bytes, static_cast<const uint64_t*>(b.keys), b.keys_sorted,
                                        static_cast<const int32_t*>(b.indices), b.order, scene.batch * scene.splats, 0, 32 + frame_bits, stream);
    if (error != cudaSuccess) return error;
    const Cells cells = cells_of(scene.width, scene.height);
    const int words = (scene.splats + 31) / 32;
    launch(mark_cells, dim3((words + kWarps - 1) / kWarps, scene.batch), kBlock, stream, scene, b, cells, words);
    return cudaSuccess;
}

cudaError_t find_slots(const Scene& scene, const Buffers& b, int32_t* counts, int32_t* slot_start, cudaStream_t stream) {
    const int64_t n = static_cast<int64_t>(scene.batch) * scene.splats;
    launch(box_sizes, dim3(blocks_for(n + 1)), kBlock, stream, b, n, counts);
    size_t bytes = static_cast<size_t>(b.temporary_bytes);
    return cub::DeviceScan::ExclusiveSum(b.temporary, bytes, static_cast<const int32_t*>(counts), slot_start, static_cast<int>(n + 1), stream);
}

}  // namespace avatar::gpu
