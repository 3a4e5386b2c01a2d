// Random scenes through the CPU kernels and through the emulated CUDA kernels, in a program built with AddressSanitizer
// and UndefinedBehaviorSanitizer. Every buffer has exactly the size that the interface asks for, so an access beyond
// it, a number that is not finite, or pictures that differ end the run.
//     fuzz SCENES EVERY      the CUDA kernels draw one scene in EVERY
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cpu/rasterizer.h"
#include "cuda/api.h"

namespace avatar {
const Kernels<float>& choose_kernels(const float*) { return kKernelsBaseline; }
const Kernels<double>& choose_kernels(const double*) { std::abort(); }
}  // namespace avatar

namespace {

// Exactly n numbers on the heap, so that the sanitizer sees the first access beyond.
template <class T> struct Array {
    std::unique_ptr<T[]> data;
    size_t size;
    explicit Array(size_t n) : data(new T[n]), size(n) {}
    T* get() { return data.get(); }
    T& operator[](size_t i) { return data[i]; }
};

std::mt19937 generator;
float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator); }
int integer(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float normal() { return std::normal_distribution<float>()(generator); }

void require_finite(Array<float>& a, const char* what, int seed) {
    for (size_t i = 0; i < a.size; ++i)
        if (!std::isfinite(a[i])) {
            std::printf("scene %d: %s[%zu] is %g\n", seed, what, i, static_cast<double>(a[i]));
            std::exit(1);
        }
}

struct Input {
    int batch, splats, channels, width, height;
    bool with_background;
    Array<float> means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics, background, v_image, v_alpha;
    Array<int32_t> layers;

    explicit Input(int b, int n, int c, int w, int h, bool under)
        : batch(b), splats(n), channels(c), width(w), height(h), with_background(under), means(3 * size_t(b) * n),
          quats(4 * size_t(b) * n), log_scales(3 * size_t(b) * n), opacity_logits(size_t(b) * n), colors(size_t(c) * b * n),
          skin(n), poses(24 * size_t(b)), intrinsics(4), background(size_t(c) * w * h), v_image(size_t(c) * b * w * h),
          v_alpha(size_t(b) * w * h), layers(n) {
        const float spread = uniform(0.1f, 30.0f), size = 2.0f * normal() - 1.0f, opaque = 4.0f * normal();
        const bool odd = integer(0, 4) == 0;  // some scenes hold values that nobody would choose
        for (size_t i = 0; i < size_t(b) * n; ++i) {
            for (int k = 0; k < 3; ++k) means[3 * i + k] = normal() * spread * (k == 2 && odd ? 10.0f : 1.0f);
            for (int k = 0; k < 4; ++k) quats[4 * i + k] = odd && integer(0, 9) == 0 ? 0.0f : normal() * (odd ? 1e3f : 1.0f);
            for (int k = 0; k < 3; ++k) log_scales[3 * i + k] = normal() * (odd ? 8.0f : 0.5f) + size;
            opacity_logits[i] = normal() * (odd ? 30.0f : 1.0f) + opaque;
            for (int k = 0; k < c; ++k) colors[c * i + k] = normal();
        }
        for (int i = 0; i < n; ++i) {
            skin[i] = uniform(0.0f, 1.0f);
            layers[i] = integer(0, 4);
        }
        for (int i = 0; i < b; ++i)
            for (int k = 0; k < 24; ++k) {
                const int r = k % 12;
                poses[24 * i + k] = (r == 0 || r == 5 || r == 10 ? 1.0f : r == 11 ? 50.0f : 0.0f) + 0.02f * normal();
            }
        intrinsics[0] = 3.0f * w;
        intrinsics[1] = 2.9f * w;
        intrinsics[2] = 0.5f * w + uniform(-2.0f, 2.0f);
        intrinsics[3] = 0.5f * h + uniform(-2.0f, 2.0f);
        for (size_t i = 0; i < background.size; ++i) background[i] = uniform(0.0f, 1.0f);
        for (size_t i = 0; i < v_image.size; ++i) v_image[i] = normal();
        for (size_t i = 0; i < v_alpha.size; ++i) v_alpha[i] = normal();
    }
};

void check(Array<float>& image, Array<float>& alpha, int seed) {
    require_finite(image, "image", seed);
    for (size_t i = 0; i < alpha.size; ++i)
        if (!(alpha[i] >= 0.0f && alpha[i] <= 1.0f)) {
            std::printf("scene %d: alpha[%zu] is %g\n", seed, i, static_cast<double>(alpha[i]));
            std::exit(1);
        }
}

void run_cpu(Input& in, Array<float>& image, Array<float>& alpha, int threads, int seed) {
    const size_t items = size_t(in.batch) * in.splats;
    const avatar::Scene<float> scene{in.means.get(), in.quats.get(), in.log_scales.get(), in.opacity_logits.get(), in.colors.get(),
                                     in.skin.get(), in.poses.get(), in.intrinsics.get(), in.with_background ? in.background.get() : nullptr,
                                     in.batch, in.splats, in.channels, in.width, in.height, in.channels};
    const auto workspace = avatar::borrow_workspace();
    Array<float> records(items * avatar::record_stride(in.channels));
    const int64_t entries = avatar::forward_project(scene, in.layers.get(), records.get(), threads, *workspace);
    const avatar::ListLayout layout(in.batch, in.splats, avatar::tile_count(in.width, in.height), entries);
    Array<int32_t> lists(static_cast<size_t>(layout.total));
    avatar::forward_blend(scene, records.get(), lists.get(), entries, image.get(), alpha.get(), threads, *workspace);
    check(image, alpha, seed);
    Array<float> means(3 * items), quats(4 * items), scales(3 * items), opacity(items), colors(in.channels * items), skin(in.splats);
    Array<float> poses(24 * size_t(in.batch)), intrinsics(4), background(in.background.size), sink(2 * size_t(in.splats));
    const avatar::Gradients<float> out{means.get(), quats.get(), scales.get(), opacity.get(), colors.get(), skin.get(), poses.get(),
                                       intrinsics.get(), in.with_background ? background.get() : nullptr, sink.get()};
    avatar::backward(scene, records.get(), lists.get(), image.get(), alpha.get(), in.v_image.get(), in.v_alpha.get(), out, threads, *workspace);
    for (auto* a : {&means, &quats, &scales, &opacity, &colors, &skin, &poses, &intrinsics, &sink}) require_finite(*a, "cpu gradient", seed);
    if (in.with_background) require_finite(background, "cpu background gradient", seed);
}

void run_cuda(Input& in, Array<float>& image, Array<float>& alpha, bool ordered, int seed) {
    using namespace avatar::gpu;
    const size_t items = size_t(in.batch) * in.splats;
    avatar::gpu::Scene scene{};
    scene.branches[0] = {in.means.get(), in.quats.get(), in.log_scales.get(), in.opacity_logits.get(), in.colors.get(), in.skin.get(),
                         nullptr, nullptr, in.splats, 0, 0, 0};
    scene.poses = in.poses.get();
    scene.intrinsics = in.intrinsics.get();
    scene.background = in.with_background ? in.background.get() : nullptr;
    scene.layers = in.layers.get();
    scene.branch_count = 1;
    scene.batch = in.batch;
    scene.splats = in.splats;
    scene.width = in.width;
    scene.height = in.height;
    scene.colors = in.channels;
    scene.per_frame = 1;
    Array<float> records(items * avatar_record_stride(in.channels));
    Array<uint16_t> boxes(4 * items);
    Array<uint64_t> keys(items), sorted(items);
    Array<int32_t> indices(items), order(items), counts(items + 1), slots(items + 1);
    Array<uint32_t> masks(static_cast<size_t>(avatar_mask_words(in.batch, in.splats, in.width, in.height)));
    Array<char> temporary(static_cast<size_t>(avatar_sort_bytes(in.batch, in.splats)));
    const Buffers buffers{nullptr, records.get(), boxes.get(), keys.get(), sorted.get(), indices.get(), order.get(), masks.get(),
                          temporary.get(), static_cast<int64_t>(temporary.size), image.get(), alpha.get()};
    if (avatar_draw(&scene, &buffers, nullptr)) std::exit(2);
    check(image, alpha, seed);
    Array<float> means(3 * items), quats(4 * items), scales(3 * items), opacity(items), colors(in.channels * items), skin(in.splats);
    Array<float> poses(24 * size_t(in.batch)), intrinsics(4), background(in.background.size), sink(2 * size_t(in.splats));
    Array<float> sums(items * kSums), v_attributes(items * kAttributeStride), v_mean2d(2 * items);
    Array<double> pose_partials(size_t(in.batch) * avatar_blocks(in.splats) * avatar::kPoseSums);
    for (size_t i = 0; i < sink.size; ++i) sink[i] = 0.0f;
    avatar::gpu::Gradients g{};
    g.v_image = in.v_image.get();
    g.v_alpha = in.v_alpha.get();
    g.sums = sums.get();
    g.v_attributes = v_attributes.get();
    g.v_mean2d = v_mean2d.get();
    g.pose_partials = pose_partials.get();
    std::unique_ptr<Array<float>> partials;
    if (ordered) {
        if (avatar_slots(&scene, &buffers, counts.get(), slots.get(), nullptr)) std::exit(2);
        partials = std::make_unique<Array<float>>(static_cast<size_t>(slots[items]) * kSums);
        g.slot_start = slots.get();
        g.partials = partials->get();
    }
    g.means[0] = means.get();
    g.quats[0] = quats.get();
    g.log_scales[0] = scales.get();
    g.opacity_logits[0] = opacity.get();
    g.colors[0] = colors.get();
    g.skin[0] = skin.get();
    g.poses = poses.get();
    g.intrinsics = intrinsics.get();
    g.background = in.with_background ? background.get() : nullptr;
    g.sink = sink.get();
    if (avatar_draw_backward(&scene, &buffers, &g, nullptr)) std::exit(2);
    for (auto* a : {&means, &quats, &scales, &opacity, &colors, &skin, &poses, &intrinsics, &sink}) require_finite(*a, "cuda gradient", seed);
    if (in.with_background) require_finite(background, "cuda background gradient", seed);
}

}  // namespace

int main(int argc, char** argv) {
    const int scenes = argc > 1 ? std::atoi(argv[1]) : 1000, every = argc > 2 ? std::atoi(argv[2]) : 10;
    for (int seed = 0; seed < scenes; ++seed) {
        generator.seed(static_cast<unsigned>(seed));
        const bool both = seed % every == 0;
        Input in(integer(1, 2), integer(1, both ? 80 : 200), integer(1, 8), integer(1, both ? 40 : 70), integer(1, both ? 36 : 60), seed % 2 == 0);
        const size_t pixels = size_t(in.batch) * in.width * in.height;
        Array<float> image(in.channels * pixels), alpha(pixels);
        run_cpu(in, image, alpha, 1 + seed % 3, seed);
        if (!both) continue;
        Array<float> other(in.channels * pixels), other_alpha(pixels);
        run_cuda(in, other, other_alpha, seed / every % 2 == 0, seed);
        double difference = 0, size = 0;  // in norm: a splat at the edge of visibility may be seen by one alone
        for (size_t i = 0; i < image.size; ++i) {
            difference += std::pow(double(image[i]) - double(other[i]), 2);
            size += std::pow(double(image[i]), 2);
        }
        if (difference > 1e-4 * (size + 1e-3)) {
            std::printf("scene %d: the two executions differ by %g of %g\n", seed, std::sqrt(difference), std::sqrt(size));
            return 1;
        }
    }
    std::printf("%d scenes\n", scenes);
    return 0;
}
