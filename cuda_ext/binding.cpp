// Python module avatar._raster: the CPU rasterizer behind plain addresses.
//
// Addresses instead of tensor types keep this file, and so the build, free of any PyTorch version. The one caller is
// avatar/raster/native.py, which checks dtype, device, contiguity and sizes. The GIL is released during work.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "cpu/rasterizer.h"
#include "include/avatar/config.h"

namespace nb = nanobind;
using Address = uintptr_t;

namespace {

template <class T> T* at(Address a) { return reinterpret_cast<T*>(a); }

// means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics, background or 0; then batch, splats, channels,
// width, height, channels of the background.
template <class S> avatar::Scene<S> scene_from(const std::vector<Address>& p, const std::vector<int>& n) {
    if (p.size() != 9 || n.size() != 6) throw std::invalid_argument("a scene is 9 addresses and 6 sizes");
    return {at<const S>(p[0]), at<const S>(p[1]), at<const S>(p[2]), at<const S>(p[3]), at<const S>(p[4]), at<const S>(p[5]),
            at<const S>(p[6]), at<const S>(p[7]), at<const S>(p[8]), n[0], n[1], n[2], n[3], n[4], n[5]};
}

// A forward pass between its two steps.
template <class S> struct Forward {
    avatar::WorkspacePtr workspace = avatar::borrow_workspace();
    avatar::Scene<S> scene;
    S* records;
    int threads;
    int64_t entries, list_size;

    Forward(const std::vector<Address>& tensors, const std::vector<int>& sizes, Address layers, Address records_, int threads_)
        : scene(scene_from<S>(tensors, sizes)), records(at<S>(records_)), threads(threads_) {
        nb::gil_scoped_release release;
        entries = avatar::forward_project(scene, at<const int32_t>(layers), records, threads, *workspace);
        if (entries > INT32_MAX) throw std::length_error("the scene covers too many tiles for one call; render fewer frames at a time");
        list_size = avatar::ListLayout(scene.batch, scene.splats, avatar::tile_count(scene.width, scene.height), entries).total;
    }
    void blend(Address lists, Address image, Address alpha) {
        nb::gil_scoped_release release;
        avatar::forward_blend(scene, records, at<int32_t>(lists), entries, at<S>(image), at<S>(alpha), threads, *workspace);
    }
};

// image, alpha, v_image, v_alpha; gradients in the order of the scene's arrays, then the sink or 0.
template <class S>
void backward(const std::vector<Address>& tensors, const std::vector<int>& sizes, Address records, Address lists,
              const std::vector<Address>& images, const std::vector<Address>& gradients, int threads) {
    if (images.size() != 4 || gradients.size() != 10) throw std::invalid_argument("4 images and 10 gradients are needed");
    const avatar::Scene<S> scene = scene_from<S>(tensors, sizes);
    const auto& g = gradients;
    const avatar::Gradients<S> out{at<S>(g[0]), at<S>(g[1]), at<S>(g[2]), at<S>(g[3]), at<S>(g[4]), at<S>(g[5]), at<S>(g[6]), at<S>(g[7]), at<S>(g[8]), at<S>(g[9])};
    nb::gil_scoped_release release;
    const auto workspace = avatar::borrow_workspace();
    avatar::backward(scene, at<const S>(records), at<int32_t>(lists), at<S>(images[0]), at<S>(images[1]),
                     at<const S>(images[2]), at<const S>(images[3]), out, threads, *workspace);
}

template <class S, class P> avatar::BranchArraysOf<P> branch_from(const std::vector<Address>& p, const std::vector<int>& n) {
    if (p.size() != 8 || n.size() != 3) throw std::invalid_argument("a branch is 8 addresses and 3 sizes");
    const auto as = [](Address a) { return reinterpret_cast<P>(a); };
    return {as(p[0]), as(p[1]), as(p[2]), as(p[3]), as(p[4]), as(p[5]), as(p[6]), as(p[7]), n[0], n[1], n[2]};
}

// branch: means, quats, log_scales, opacity_logits, colors, skin_logits, bases, weights and count, basis_count, first;
// sizes: batch, splats, channels, layer; frames: means, quats, log_scales, opacity_logits, colors, skin of all branches.
template <class S>
void animate(const std::vector<Address>& branch, const std::vector<int>& branch_sizes, Address units, const std::vector<int>& sizes,
             const std::vector<Address>& frames, Address layers, int threads) {
    if (sizes.size() != 4 || frames.size() != 6) throw std::invalid_argument("4 sizes and 6 frame arrays are needed");
    const avatar::AnimateJob<S> job{branch_from<S, const S*>(branch, branch_sizes), at<const S>(units), sizes[0], sizes[1], sizes[2], sizes[3],
                                    at<S>(frames[0]), at<S>(frames[1]), at<S>(frames[2]), at<S>(frames[3]), at<S>(frames[4]), at<S>(frames[5]),
                                    at<int32_t>(layers)};
    nb::gil_scoped_release release;
    avatar::animate(job, threads, *avatar::borrow_workspace());
}

// sizes: batch, splats, channels; v_frames in the order of `frames` above; gradients in the order of the branch.
template <class S>
void animate_backward(const std::vector<Address>& branch, const std::vector<int>& branch_sizes, Address units, const std::vector<int>& sizes,
                      const std::vector<Address>& v_frames, const std::vector<Address>& gradients, int threads) {
    if (sizes.size() != 3 || v_frames.size() != 6) throw std::invalid_argument("3 sizes and 6 frame gradients are needed");
    const avatar::AnimateBackwardJob<S> job{branch_from<S, const S*>(branch, branch_sizes), at<const S>(units), sizes[0], sizes[1], sizes[2],
                                            at<const S>(v_frames[0]), at<const S>(v_frames[1]), at<const S>(v_frames[2]),
                                            at<const S>(v_frames[3]), at<const S>(v_frames[4]), at<const S>(v_frames[5]),
                                            branch_from<S, S*>(gradients, branch_sizes), nullptr};
    nb::gil_scoped_release release;
    avatar::animate_backward(job, threads, *avatar::borrow_workspace());
}

// inputs: sh, means, skin, poses; sizes: batch, splats, terms, channels; outputs: colors, or their gradient and then those
// of the inputs.
template <class S> avatar::ShJob<S> sh_job(const std::vector<Address>& in, const std::vector<int>& n, S* colors) {
    if (in.size() != 4 || n.size() != 4) throw std::invalid_argument("4 addresses and 4 sizes are needed");
    return {at<const S>(in[0]), at<const S>(in[1]), at<const S>(in[2]), at<const S>(in[3]), n[0], n[1], n[2], n[3], colors};
}
template <class S> void sh_colors(const std::vector<Address>& in, const std::vector<int>& sizes, Address colors, int threads) {
    const avatar::ShJob<S> job = sh_job<S>(in, sizes, at<S>(colors));
    nb::gil_scoped_release release;
    avatar::sh_colors(job, threads);
}
template <class S>
void sh_colors_backward(const std::vector<Address>& in, const std::vector<int>& sizes, Address v_colors, const std::vector<Address>& out, int threads) {
    if (out.size() != 4) throw std::invalid_argument("4 gradients are needed");
    const avatar::ShJob<S> job = sh_job<S>(in, sizes, nullptr);
    nb::gil_scoped_release release;
    avatar::sh_colors_backward(job, at<const S>(v_colors), {at<S>(out[0]), at<S>(out[1]), at<S>(out[2]), at<S>(out[3])}, threads,
                               *avatar::borrow_workspace());
}

template <class S>
std::pair<double, double> l1_ssim(Address image, Address target, Address weights, const std::vector<int>& sizes, Address v_image, int threads) {
    if (sizes.size() != 4) throw std::invalid_argument("4 sizes are needed: batch, height, width, channels");
    double sums[2];
    {
        nb::gil_scoped_release release;
        const auto workspace = avatar::borrow_workspace();
        avatar::l1_ssim(at<const S>(image), at<const S>(target), at<const S>(weights), sizes[0], sizes[1], sizes[2], sizes[3],
                        at<S>(v_image), sums, threads, *workspace);
    }
    return {sums[0], sums[1]};
}

// v_image = v_l1 * sign(image - target) * weights + v_ssim * v_ssim_image, weights broadcast over channels.
template <class S>
void l1_ssim_backward(Address image, Address target, Address weights, Address v_ssim_image, int64_t pixels, int channels, double v_l1,
                      double v_ssim, Address v_image, int threads) {
    nb::gil_scoped_release release;
    avatar::l1_ssim_backward(at<const S>(image), at<const S>(target), at<const S>(weights), at<const S>(v_ssim_image), pixels, channels,
                             static_cast<S>(v_l1), static_cast<S>(v_ssim), at<S>(v_image), threads);
}

template <class S> void add_precision(nb::module_& m, const std::string& suffix) {
    nb::class_<Forward<S>>(m, ("Forward" + suffix).c_str())
        .def(nb::init<const std::vector<Address>&, const std::vector<int>&, Address, Address, int>())
        .def_ro("entries", &Forward<S>::entries)
        .def_ro("list_size", &Forward<S>::list_size)
        .def("blend", &Forward<S>::blend);
    m.def(("backward" + suffix).c_str(), &backward<S>);
    m.def(("animate" + suffix).c_str(), &animate<S>);
    m.def(("animate_backward" + suffix).c_str(), &animate_backward<S>);
    m.def(("sh_colors" + suffix).c_str(), &sh_colors<S>);
    m.def(("sh_colors_backward" + suffix).c_str(), &sh_colors_backward<S>);
    m.def(("l1_ssim" + suffix).c_str(), &l1_ssim<S>);
    m.def(("l1_ssim_backward" + suffix).c_str(), &l1_ssim_backward<S>);
    m.def(("level" + suffix).c_str(), [] { return std::string(avatar::choose_kernels(static_cast<const S*>(nullptr)).name); });
}

}  // namespace

NB_MODULE(_raster, m) {
    m.doc() = "CPU rasterizer of avatar; use avatar.raster.";
    add_precision<float>(m, "32");
    add_precision<double>(m, "64");
    m.def("record_stride", [](int channels) { return avatar::record_stride(channels); });
    m.def("levels", [] {
        std::vector<std::string> names;
        for (const char* name : avatar::runnable_levels()) names.emplace_back(name);
        return names;
    });
    m.def("constants", [] {
        nb::dict d;
        d["NEAR_CM"] = avatar::kNearCm;
        d["BLUR_PX2"] = avatar::kBlurPx2;
        d["ALPHA_MIN"] = avatar::kAlphaMin;
        d["ALPHA_MAX"] = avatar::kAlphaMax;
        d["TRANSMITTANCE_MIN"] = avatar::kTransmittanceMin;
        d["FOV_MARGIN"] = avatar::kFovMargin;
        d["LOG_SCALE_RANGE"] = nb::make_tuple(avatar::kLogScaleMin, avatar::kLogScaleMax);
        d["QUAT_EPS"] = avatar::kQuatEps;
        return d;
    });
}
