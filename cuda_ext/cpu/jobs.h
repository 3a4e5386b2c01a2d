// What the instruction-set specific kernels (kernels.inl, ssim.inl) are given, and the table through which they are
// called. Plain data only: this header is shared between translation units with different instruction sets.
#pragma once
#include "../include/avatar/config.h"

#include <cstddef>
#include <cstdint>

namespace avatar {

// A tile is 8 x 16 px: 8 px are one AVX2 register, so a row's lanes keep their dx for the whole tile, and few tiles per
// splat mean few reductions in backward. Only the rows that a splat reaches are computed.
constexpr int kTileW = 8, kTileH = 16;
constexpr int kMaxChannels = 8;
constexpr int kChunk = 512;       // splats per unit of work in projection

// Record of a projected splat: x, y, a, b, c, log2_opacity, -b / (2 a), unused, then the padded colour.
// Gradient of one splat from one tile: sums over pixels of p, p dx, p dx^2, p dy, p dx dy, p dy^2 with
// p = d loss / d log2(alpha) / ln 2, then the colour's gradient.

// Channel counts are compiled for 1, 3, 4 and 8; others use the next larger.
constexpr int compiled_channels(int channels) { return channels <= 1 ? 1 : channels <= 3 ? 3 : channels <= 4 ? 4 : 8; }
constexpr int record_stride(int channels) { return kRecordGeometry + (compiled_channels(channels) > 4 ? 8 : 4); }
constexpr int partial_stride(int channels) { return (kMoments + compiled_channels(channels) + 3) / 4 * 4; }

using GroupMask = uint16_t;  // a tile has kTileH rows in groups of one or two

struct Box { int32_t x0, y0, x1, y1; };  // px, inclusive; x1 < x0 when invisible

// Arrays are contiguous, shapes as in avatar.raster.rasterize.
template <class S> struct Scene {
    const S *means, *quats, *log_scales, *opacity_logits, *colors, *skin, *poses, *intrinsics;
    const S* background;  // (height, width, background_channels), under the first channels of every image; may be null
    int batch, splats, channels, width, height, background_channels;

    // What shows through at a pixel of the image, or null.
    const S* behind(int x, int y) const {
        return background ? background + (static_cast<size_t>(y) * width + x) * background_channels : nullptr;
    }
};

template <class S> struct ProjectJob {
    Scene<S> scene;
    S* records;   // batch * splats * record_stride
    S* depths;    // batch * splats, valid where visible
    Box* boxes;   // batch * splats
};

// Which splats every tile sees, front to back.
struct TileLists {
    int tiles_x, tiles_y;
    const int32_t* tile_start;    // batch * tiles + 1 offsets into `splat`
    const int32_t* splat;         // index of the record
    GroupMask* groups;            // per entry: bit g set when the splat adds to row group g of the tile (written by forward)
};

template <class S> struct BlendJob {
    Scene<S> scene;
    TileLists lists;
    const S* records;
    S *image, *alpha;             // outputs of forward, inputs of backward
    const S *v_image, *v_alpha;   // backward only
    S* partials;                  // backward only: entries * partial_stride
};

template <class S> struct ProjectBackwardJob {
    Scene<S> scene;
    const S *records, *partials;
    const GroupMask* groups;
    const int32_t *slot_start;    // batch * splats + 1 offsets into `slot_entry`
    const int32_t *slot_entry;    // a splat's entries of the tile lists
    S *v_means, *v_quats, *v_log_scales, *v_opacity_logits, *v_colors, *v_skin;  // v_skin: (batch, splats)
    S* v_pose_chunks;             // kPoseSums per chunk
    S* v_mean2d;                  // (batch, splats, 2) or null
};

template <class S> struct SsimJob {
    const S *image, *target, *weights;
    int batch, height, width, channels;
    S* v_image;          // d (sum of weights * ssim) / d image, or null
    double* band_sums;   // two per band: weighted absolute error, weighted SSIM
};
constexpr int kSsimHalf = 5;    // window of 11
constexpr int kSsimBand = 32;   // output rows per unit of work

template <class S> struct LossBackwardJob {
    const S *image, *target, *weights, *v_ssim_image;
    int channels;  // at most kMaxChannels
    S v_l1, v_ssim;
    S* v_image;
};

// Canonical Gaussians of one branch and its motion bases, as in avatar.raster.draw.
constexpr int kAnimateChunk = 128;   // Gaussians per unit of work
template <class P> struct BranchArraysOf {
    P means, quats, log_scales, opacity_logits, colors, skin_logits, bases, weights;
    int count, basis_count, first;   // first: index of its first Gaussian among all branches'
};
template <class S> using BranchArrays = BranchArraysOf<const S*>;

template <class S> struct AnimateJob {
    BranchArrays<S> branch;
    const S* units;                  // kAttributes
    int batch, splats, channels, layer;  // channels beyond the colour's three are one-hot in the layer
    S *means, *quats, *log_scales, *opacity_logits, *colors, *skin;  // of all branches, frame by frame
    int32_t* layers;
};

template <class S> struct AnimateBackwardJob {
    BranchArrays<S> branch;
    const S* units;
    int batch, splats, channels;
    const S *v_means, *v_quats, *v_log_scales, *v_opacity_logits, *v_colors, *v_skin;
    BranchArraysOf<S*> out;
    S* weight_partials;              // (chunks, batch, basis_count)
};
inline int animate_chunks(int count) { return (count + kAnimateChunk - 1) / kAnimateChunk; }

// View-dependent colours, see include/avatar/sh.h.
template <class S> struct ShJob {
    const S *sh, *means, *skin, *poses;  // (splats, terms, channels), (batch, splats, 3), (splats,), (batch, 2, 3, 4)
    int batch, splats, terms, channels;  // terms: 1 or 4
    S* colors;                           // forward only: (batch, splats, channels)
};
template <class S> struct ShBackwardJob {
    ShJob<S> forward;
    const S* v_colors;
    S *v_means, *v_skin, *factors;       // (batch, splats, 3), (batch, splats), (batch, splats, 4)
    S* v_pose_chunks;                    // 24 per chunk
};

template <class S> struct Kernels {
    const char* name;
    // chunk = image * chunks_per_image + block of kChunk splats
    void (*project)(const ProjectJob<S>&, int chunk);
    void (*blend)(const BlendJob<S>&, int tile);            // tile = image * tiles + index
    void (*blend_backward)(const BlendJob<S>&, int tile);
    void (*project_backward)(const ProjectBackwardJob<S>&, int chunk);
    void (*ssim)(const SsimJob<S>&, int band, S* scratch);  // band = image * bands_per_image + index
    void (*l1_ssim_backward)(const LossBackwardJob<S>&, int64_t first_pixel, int64_t last_pixel);
    // scratch: batch * kAnimateChunk * kAttributes
    void (*animate)(const AnimateJob<S>&, int chunk, S* scratch);
    void (*animate_backward)(const AnimateBackwardJob<S>&, int chunk, S* scratch);
    void (*sh)(const ShJob<S>&, int chunk);  // chunks as in project
    void (*sh_backward)(const ShBackwardJob<S>&, int chunk);
};

extern const Kernels<float> kKernelsBaseline;
extern const Kernels<double> kKernelsDouble;
#if defined(__x86_64__)
extern const Kernels<float> kKernelsAvx2, kKernelsAvx512;
#endif

inline int chunks_per_image(int splats) { return (splats + kChunk - 1) / kChunk; }
inline int bands_per_image(int height) { return (height + kSsimBand - 1) / kSsimBand; }
// Three derivative maps and the intermediate rows of one band.
inline size_t ssim_scratch(int width, int channels) {
    const size_t row = static_cast<size_t>(width + 2 * kSsimHalf) * channels + 64;
    return row * (4 * (kSsimBand + 4 * kSsimHalf) + 3 * (kSsimBand + 2 * kSsimHalf) + 8);
}

}  // namespace avatar
