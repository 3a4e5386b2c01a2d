// Canonical Gaussians to records of projected splats, and the gradient of that: blending of the motion bases, skinning
// by head and torso pose, EWA projection. The formulas are in include/avatar/projection.h.
#include "kernels.h"

namespace avatar::gpu {

namespace {

using scalar::Camera;
using scalar::Gaussian;
using scalar::Poses;

constexpr int kFrames = 8;                   // frames that one block works on together
constexpr int kPerBlock = kBlock / kFrames;  // Gaussians of a block in `animate`

__device__ void load_view(const Scene& scene, int frame, Poses<float>& poses, Camera<float>& camera) {
    load_poses(scene.poses + frame * 24, poses);
    const float* k = scene.intrinsics;
    camera = {k[0], k[1], k[2], k[3], static_cast<float>(scene.width), static_cast<float>(scene.height)};
}

__device__ Gaussian<float> gaussian_from(const float* a) {
    Gaussian<float> g;
    for (int k = 0; k < 3; ++k) g.mean[k] = a[k];
    for (int k = 0; k < 4; ++k) g.quat[k] = a[3 + k];
    for (int k = 0; k < 3; ++k) g.log_scale[k] = a[7 + k];
    g.opacity_logit = a[13];
    g.skin = a[14];
    return g;
}

__device__ int layer_of(const Scene& scene, int splat, int branch) {
    const int layer = scene.layers ? scene.layers[splat] : branch;
    return layer < 0 ? 0 : layer < kMaxLayers ? layer : kMaxLayers - 1;
}

// Ascending in (layer, depth). Depths from kNearCm up to 65536 times that keep all bits of their float in 28 bits.
__device__ uint64_t sort_key(int frame, int layer, float depth) {
    const unsigned nearest = __float_as_uint(static_cast<float>(kNearCm)), d = __float_as_uint(depth) - nearest;
    const unsigned low = d < kDepthEnd ? d : kDepthEnd - 1;
    return static_cast<uint64_t>(frame) << 32 | static_cast<unsigned>(layer) << kDepthBits | low;
}

// First and last tile of the pixels whose centres lie within [low, high], false when there are none. Comparisons are
// such that NaN is invisible.
__device__ bool tile_range(float low, float high, int side, int& first, int& last) {
    if (!(high > 0.0f && low < side)) return false;
    const float a = ceilf(fmaxf(low - 0.5f, 0.0f)), b = floorf(fminf(high - 0.5f, side - 1.0f));
    if (!(a <= b)) return false;
    first = static_cast<int>(a) / kTile;
    last = static_cast<int>(b) / kTile;
    return true;
}

__device__ void write_splat(const Scene& scene, const Buffers& out, int frame, int splat, int branch, const float* a) {
    const int64_t i = static_cast<int64_t>(frame) * scene.splats + splat;
    Poses<float> poses;
    Camera<float> camera;
    load_view(scene, frame, poses, camera);
    scalar::Projected<float> p;
    bool visible;
    scalar::project(gaussian_from(a), poses, camera, p, visible);
    int x0 = 1, y0 = 1, x1 = 0, y1 = 0;
    visible = visible && tile_range(p.x - p.half_x, p.x + p.half_x, scene.width, x0, x1) &&
              tile_range(p.y - p.half_y, p.y + p.half_y, scene.height, y0, y1);
    uint16_t* box = out.boxes + 4 * i;
    box[0] = static_cast<uint16_t>(visible ? x0 : 1);
    box[1] = static_cast<uint16_t>(visible ? y0 : 1);
    box[2] = static_cast<uint16_t>(visible ? x1 : 0);
    box[3] = static_cast<uint16_t>(visible ? y1 : 0);
    out.keys[i] = visible ? sort_key(frame, layer_of(scene, splat, branch), p.depth) : sort_key(frame, kMaxLayers - 1, 1e30f);
    out.indices[i] = splat;
    float* r = out.records + i * record_stride(scene.colors + scene.coverage);
    if (!visible) return;  // nothing reads the record
    r[0] = p.x; r[1] = p.y; r[2] = p.a; r[3] = p.b; r[4] = p.c; r[5] = p.log2_opacity; r[6] = p.depth; r[7] = 0.0f;
    const int padded = record_stride(scene.colors + scene.coverage) - kRecordGeometry, layer = layer_of(scene, splat, branch);
    for (int c = 0; c < padded; ++c) {
        float value = 0.0f;
        if (c < scene.colors)
            value = scene.per_frame ? scene.branches[0].colors[i * scene.colors + c] : a[10 + c];
        else if (c - scene.colors < scene.coverage)
            value = layer == c - scene.colors ? 1.0f : 0.0f;
        r[kRecordGeometry + c] = value;
    }
}

__device__ float canonical_attribute(const Branch& b, int row, int k) {
    if (k < 3) return b.means[3 * row + k];
    if (k < 7) return b.quats[4 * row + k - 3];
    if (k < 10) return b.log_scales[3 * row + k - 7];
    if (k < 13) return b.colors[3 * row + k - 10];
    return b.opacity_logits[row];
}

// Thread = (Gaussian, frame). A block reads each basis row once, into shared memory, for all of its frames.
template <class Basis> __global__ void __launch_bounds__(kBlock) animate(Scene scene, Buffers out, int branch_index) {
    __shared__ float rows[kPerBlock * kAttributes];
    const Branch& branch = scene.branches[branch_index];
    const int local = static_cast<int>(threadIdx.x) % kPerBlock, first = static_cast<int>(blockIdx.x) * kPerBlock;
    const int frame = static_cast<int>(blockIdx.y) * kFrames + static_cast<int>(threadIdx.x) / kPerBlock;
    const int row = first + local, count = branch.count - first < kPerBlock ? branch.count - first : kPerBlock;
    const bool valid = row < branch.count && frame < scene.batch;
    float offset[kAttributes];
    for (int c = 0; c < kAttributes; ++c) offset[c] = 0.0f;
    const Basis* const bases = static_cast<const Basis*>(branch.bases);
    for (int k = 0; k < branch.basis_count; ++k) {
        const Basis* const source = bases + (static_cast<int64_t>(k) * branch.count + first) * kAttributes;
        for (int i = static_cast<int>(threadIdx.x); i < count * kAttributes; i += kBlock) rows[i] = to_float(source[i]);
        __syncthreads();
        if (valid) {
            const float w = branch.weights[frame * branch.basis_count + k];
            for (int c = 0; c < kAttributes; ++c) offset[c] += w * rows[local * kAttributes + c];
        }
        __syncthreads();
    }
    if (!valid) return;
    float a[kAttributeStride];
    for (int c = 0; c < kAttributes; ++c) a[c] = canonical_attribute(branch, row, c) + scene.units[c] * offset[c];
    a[14] = scene.skin_is_logit ? 1.0f / (1.0f + expf(-branch.skin[row])) : branch.skin[row];
    a[15] = 0.0f;
    const int splat = branch.first + row;
    if (out.attributes) {
        float* kept = out.attributes + (static_cast<int64_t>(frame) * scene.splats + splat) * kAttributeStride;
        for (int c = 0; c < kAttributeStride; ++c) kept[c] = a[c];
    }
    write_splat(scene, out, frame, splat, branch_index, a);
}

__device__ void gather_frame_attributes(const Scene& scene, int frame, int splat, float* a) {
    const Branch& b = scene.branches[0];
    const int64_t i = static_cast<int64_t>(frame) * scene.splats + splat;
    for (int k = 0; k < 3; ++k) a[k] = b.means[3 * i + k];
    for (int k = 0; k < 4; ++k) a[3 + k] = b.quats[4 * i + k];
    for (int k = 0; k < 3; ++k) a[7 + k] = b.log_scales[3 * i + k];
    a[13] = b.opacity_logits[i];
    a[14] = b.skin[splat];
}

// For Gaussians that come already deformed, frame by frame.
__global__ void __launch_bounds__(kBlock) project_frames(Scene scene, Buffers out) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
    if (i >= static_cast<int64_t>(scene.batch) * scene.splats) return;
    const int frame = static_cast<int>(i / scene.splats), splat = static_cast<int>(i % scene.splats);
    float a[kAttributeStride];
    gather_frame_attributes(scene, frame, splat, a);
    write_splat(scene, out, frame, splat, 0, a);
}

// ------------------------------------------------------------------------------------------------ backward

// Sums of a splat over its tiles, in a fixed order (deterministic mode).
__global__ void __launch_bounds__(kBlock) collect(Scene scene, Gradients g) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) / kSums, n = static_cast<int64_t>(scene.batch) * scene.splats;
    const int column = static_cast<int>(threadIdx.x) % kSums;
    if (i >= n) return;
    float sum = 0.0f;
    for (int64_t slot = g.slot_start[i]; slot < g.slot_start[i + 1]; ++slot) sum += g.partials[slot * kSums + column];
    g.sums[i * kSums + column] = sum;
}

// Thread = Gaussian of one frame: gradient by its attributes, and the block's sums for pose and camera.
__global__ void __launch_bounds__(kBlock) project_backward_frame(Scene scene, Buffers in, Gradients g) {
    __shared__ float by_warp[kWarps][32];
    const int frame = static_cast<int>(blockIdx.y), splat = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
    const int64_t i = static_cast<int64_t>(frame) * scene.splats + splat;
    float pose_sums[32];
    for (int k = 0; k < 32; ++k) pose_sums[k] = 0.0f;
    if (splat < scene.splats) {
        float* out = g.v_attributes + i * kAttributeStride;
        for (int c = 0; c < kAttributeStride; ++c) out[c] = 0.0f;
        const uint16_t* box = in.boxes + 4 * i;
        const bool visible = box[2] >= box[0];
        const float* m = g.sums + i * kSums;
        bool touched = false;
        if (visible)
            for (int c = 0; c < kSums; ++c) touched |= m[c] != 0.0f;
        float v_x = 0.0f, v_y = 0.0f;
        if (touched) {
            float a[kAttributeStride];
            if (scene.per_frame)
                gather_frame_attributes(scene, frame, splat, a);
            else
                for (int c = 0; c < kAttributeStride; ++c) a[c] = in.attributes[i * kAttributeStride + c];
            Poses<float> poses;
            Camera<float> camera;
            load_view(scene, frame, poses, camera);
            const float* r = in.records + i * record_stride(scene.colors + scene.coverage);
            const float ln2 = static_cast<float>(kLn2);
            v_x = -ln2 * (2.0f * r[2] * m[1] + r[3] * m[3]);
            v_y = -ln2 * (2.0f * r[4] * m[3] + r[3] * m[1]);
            const scalar::ProjectedGrad<float> v{v_x, v_y, ln2 * m[2], ln2 * m[4], ln2 * m[5], ln2 * m[0]};
            Gaussian<float> v_g;
            float v_pose[12], v_camera[4];
            const Gaussian<float> gaussian = gaussian_from(a);
            scalar::project_backward(gaussian, poses, camera, v, v_g, v_pose, v_camera);
            for (int k = 0; k < 3; ++k) out[k] = v_g.mean[k];
            for (int k = 0; k < 4; ++k) out[3 + k] = v_g.quat[k];
            for (int k = 0; k < 3; ++k) out[7 + k] = v_g.log_scale[k];
            out[13] = v_g.opacity_logit;
            out[14] = v_g.skin;
            for (int k = 0; k < 12; ++k) {
                pose_sums[k] = v_pose[k] * gaussian.skin;
                pose_sums[12 + k] = v_pose[k] * (1.0f - gaussian.skin);
            }
            for (int k = 0; k < 4; ++k) pose_sums[24 + k] = v_camera[k];
        }
        if (!scene.per_frame)
            for (int c = 0; c < 3; ++c) out[10 + c] = touched ? m[kMoments + c] : 0.0f;
        if (g.v_mean2d) {
            g.v_mean2d[2 * i] = v_x;
            g.v_mean2d[2 * i + 1] = v_y;
        }
    }
    warp_sums(pose_sums);
    by_warp[threadIdx.x / 32][threadIdx.x % 32] = pose_sums[0];
    __syncthreads();
    if (threadIdx.x < kPoseSums) {
        double sum = 0.0;
        for (int w = 0; w < kWarps; ++w) sum += by_warp[w][threadIdx.x];
        g.pose_partials[(static_cast<int64_t>(frame) * gridDim.x + blockIdx.x) * kPoseSums + threadIdx.x] = sum;
    }
}

// One warp: pose gradients per frame, camera gradients over all frames.
__global__ void sum_poses(Scene scene, Gradients g, int blocks) {
    const int k = static_cast<int>(threadIdx.x);
    if (k >= kPoseSums) return;
    double camera = 0.0;
    for (int frame = 0; frame < scene.batch; ++frame) {
        double sum = 0.0;
        for (int b = 0; b < blocks; ++b) sum += g.pose_partials[(static_cast<int64_t>(frame) * blocks + b) * kPoseSums + k];
        if (k < 24) g.poses[frame * 24 + k] = static_cast<float>(sum);
        camera += sum;
    }
    if (k >= 24) g.intrinsics[k - 24] = static_cast<float>(camera);
}

// Already deformed Gaussians: gradients go out frame by frame, the skin weight's is summed.
__global__ void __launch_bounds__(kBlock) scatter_frames(Scene scene, Gradients g) {
    const int splat = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
    if (splat >= scene.splats) return;
    float v_skin = 0.0f;
    for (int frame = 0; frame < scene.batch; ++frame) {
        const int64_t i = static_cast<int64_t>(frame) * scene.splats + splat;
        const float* v = g.v_attributes + i * kAttributeStride;
        for (int k = 0; k < 3; ++k) g.means[0][3 * i + k] = v[k];
        for (int k = 0; k < 4; ++k) g.quats[0][4 * i + k] = v[3 + k];
        for (int k = 0; k < 3; ++k) g.log_scales[0][3 * i + k] = v[7 + k];
        g.opacity_logits[0][i] = v[13];
        for (int c = 0; c < scene.colors; ++c) g.colors[0][i * scene.colors + c] = g.sums[i * kSums + kMoments + c];
        v_skin += v[14];
    }
    g.skin[0][splat] = v_skin;
}

__global__ void __launch_bounds__(kBlock) add_to_sink(Scene scene, Buffers in, Gradients g) {
    const int splat = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
    if (splat >= scene.splats) return;
    float norm = 0.0f, seen = 0.0f;
    for (int frame = 0; frame < scene.batch; ++frame) {
        const int64_t i = static_cast<int64_t>(frame) * scene.splats + splat;
        norm += sqrtf(g.v_mean2d[2 * i] * g.v_mean2d[2 * i] + g.v_mean2d[2 * i + 1] * g.v_mean2d[2 * i + 1]);
        seen += in.boxes[4 * i + 2] >= in.boxes[4 * i] ? 1.0f : 0.0f;
    }
    g.sink[2 * splat] += norm;
    g.sink[2 * splat + 1] += seen;
}

constexpr int kElements = 4;                           // attributes per thread
constexpr int kAnimateElements = kElements * kBlock;   // attributes per block

// Gradient by canonical attributes, bases and basis weights, for frames first_frame .. first_frame + kFrames.
// Thread = kElements numbers of the (Gaussian, attribute) plane of a branch.
__global__ void __launch_bounds__(kBlock) animate_backward(Scene scene, Gradients g, int branch_index, int first_frame) {
    __shared__ float by_warp[kWarps][kFrames];
    const Branch& branch = scene.branches[branch_index];
    const int frames = scene.batch - first_frame < kFrames ? scene.batch - first_frame : kFrames;
    const int64_t size = static_cast<int64_t>(branch.count) * kAttributes;
    float v[kElements][kFrames], unit[kElements];
    for (int e = 0; e < kElements; ++e) {
        const int64_t at = static_cast<int64_t>(blockIdx.x) * kAnimateElements + e * kBlock + threadIdx.x;
        const int row = static_cast<int>(at / kAttributes), c = static_cast<int>(at % kAttributes);
        float total = 0.0f;
        unit[e] = scene.units[c];
        for (int f = 0; f < kFrames; ++f) {
            v[e][f] = 0.0f;
            if (at < size && f < frames)
                v[e][f] = g.v_attributes[(static_cast<int64_t>(first_frame + f) * scene.splats + branch.first + row) * kAttributeStride + c];
            total += v[e][f];
        }
        if (at >= size) continue;
        float* const target = c < 3    ? g.means[branch_index] + 3 * row + c
                              : c < 7  ? g.quats[branch_index] + 4 * row + c - 3
                              : c < 10 ? g.log_scales[branch_index] + 3 * row + c - 7
                              : c < 13 ? g.colors[branch_index] + 3 * row + c - 10
                                       : g.opacity_logits[branch_index] + row;
        *target = first_frame ? *target + total : total;
        if (c == 13) {  // the thread of the last attribute also does the skin weight
            float v_skin = 0.0f;
            for (int f = 0; f < frames; ++f)
                v_skin += g.v_attributes[(static_cast<int64_t>(first_frame + f) * scene.splats + branch.first + row) * kAttributeStride + 14];
            if (scene.skin_is_logit) {
                const float s = 1.0f / (1.0f + expf(-branch.skin[row]));
                v_skin *= s * (1.0f - s);
            }
            float* const skin = g.skin[branch_index] + row;
            *skin = first_frame ? *skin + v_skin : v_skin;
        }
    }
    const float* const bases = static_cast<const float*>(branch.bases);
    for (int k = 0; k < branch.basis_count; ++k) {
        float by_weight[kFrames];
        for (int f = 0; f < kFrames; ++f) by_weight[f] = 0.0f;
        for (int e = 0; e < kElements; ++e) {
            const int64_t at = static_cast<int64_t>(blockIdx.x) * kAnimateElements + e * kBlock + threadIdx.x;
            if (at >= size) continue;
            const float basis = bases[k * size + at] * unit[e];
            float v_basis = 0.0f;
            for (int f = 0; f < frames; ++f) {
                v_basis += branch.weights[(first_frame + f) * branch.basis_count + k] * v[e][f];
                by_weight[f] += basis * v[e][f];
            }
            float* const target = g.bases[branch_index] + k * size + at;
            *target = (first_frame ? *target : 0.0f) + unit[e] * v_basis;
        }
        warp_sums(by_weight);
        if (threadIdx.x % 4 == 0) by_warp[threadIdx.x / 32][threadIdx.x % 32 / 4] = by_weight[0];
        __syncthreads();
        if (threadIdx.x < kFrames) {
            float sum = 0.0f;
            for (int w = 0; w < kWarps; ++w) sum += by_warp[w][threadIdx.x];
            g.weight_partials[(static_cast<int64_t>(blockIdx.x) * branch.basis_count + k) * kFrames + threadIdx.x] = sum;
        }
        __syncthreads();
    }
}

// Thread = (basis, frame).
__global__ void __launch_bounds__(kBlock) sum_weights(Scene scene, Gradients g, int branch_index, int first_frame, int blocks) {
    const int at = static_cast<int>(blockIdx.x * kBlock + threadIdx.x), K = scene.branches[branch_index].basis_count;
    const int k = at / kFrames, f = at % kFrames;
    if (k >= K || first_frame + f >= scene.batch) return;
    double sum = 0.0;
    for (int b = 0; b < blocks; ++b) sum += g.weight_partials[(static_cast<int64_t>(b) * K + k) * kFrames + f];
    g.weights[branch_index][(first_frame + f) * K + k] = static_cast<float>(sum);
}

}  // namespace

void animate_and_project(const Scene& scene, const Buffers& out, cudaStream_t stream) {
    if (scene.per_frame) {
        launch(project_frames, dim3(blocks_for(static_cast<int64_t>(scene.batch) * scene.splats)), kBlock, stream, scene, out);
        return;
    }
    for (int b = 0; b < scene.branch_count; ++b) {
        const dim3 grid((scene.branches[b].count + kPerBlock - 1) / kPerBlock, (scene.batch + kFrames - 1) / kFrames);
        launch(scene.half_bases ? animate<half_t> : animate<float>, grid, kBlock, stream, scene, out, b);
    }
}

int animate_blocks(int count) { return (count * kAttributes + kAnimateElements - 1) / kAnimateElements; }

void project_and_animate_backward(const Scene& scene, const Buffers& in, const Gradients& g, cudaStream_t stream) {
    const int64_t all = static_cast<int64_t>(scene.batch) * scene.splats;
    if (g.slot_start) launch(collect, dim3(blocks_for(all * kSums)), kBlock, stream, scene, g);
    const unsigned blocks = blocks_for(scene.splats);
    launch(project_backward_frame, dim3(blocks, scene.batch), kBlock, stream, scene, in, g);
    launch(sum_poses, dim3(1), 32, stream, scene, g, static_cast<int>(blocks));
    if (g.sink) launch(add_to_sink, dim3(blocks), kBlock, stream, scene, in, g);
    if (scene.per_frame) {
        launch(scatter_frames, dim3(blocks), kBlock, stream, scene, g);
        return;
    }
    for (int b = 0; b < scene.branch_count; ++b) {
        const int per_branch = animate_blocks(scene.branches[b].count), K = scene.branches[b].basis_count;
        for (int first = 0; first < scene.batch; first += kFrames) {
            launch(animate_backward, dim3(per_branch), kBlock, stream, scene, g, b, first);
            launch(sum_weights, dim3(blocks_for(static_cast<int64_t>(K) * kFrames)), kBlock, stream, scene, g, b, first, per_branch);
        }
    }
}

}  // namespace avatar::gpu
