"""The CUDA kernels against the float64 twin: their real sources, run by the SIMT emulation, and on a GPU natively."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess

import pytest
import simt_build
import torch
from raster_scenes import (
    SCENES,
    UNITS,
    assert_same,
    draw_with_gradients,
    linear_loss_gradients,
    moving_scene,
    random_scene,
    relative_error,
    render_with_gradients,
)
from torch import Tensor

from avatar.raster import MovingGaussians, cuda, reference

TOLERANCE = 1e-4  # norm-wise; worst seen 2e-5


@pytest.fixture(scope="module")
def kernels() -> cuda.Library:
    """The kernels compiled for the host."""
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler")
    return cuda.Library(simt_build.build("simt", list(simt_build.SOURCES), ["-O2", "-fPIC", "-shared"]))


def frames_with_gradients(kernels: cuda.Library, scene: list[Tensor], width: int, height: int, deterministic: bool):
    """As `render_with_gradients`, on the kernels themselves."""
    t = [x.float().contiguous() if x.is_floating_point() else x for x in scene]
    struct = cuda.Scene((tuple(t[:6]),), t[7], t[8], None, t[6], (1.0,) * 14, width, height, 0)
    image, alpha, state = cuda.draw(kernels, struct, keep=True)
    v_image, v_alpha = linear_loss_gradients(image, alpha)
    (v,), poses, intrinsics, _, sink = cuda.draw_backward(
        kernels, struct, image, alpha, state, v_image, v_alpha, True, deterministic
    )
    names = ("means", "quats", "log_scales", "opacity_logits", "colors", "skin")
    out = {"image": image, "alpha": alpha, "sink": sink, "poses": poses, "intrinsics": intrinsics}
    return out | dict(zip(names, v, strict=True))


def moving_with_gradients(kernels: cuda.Library, scene, coverage: int, deterministic: bool) -> dict[str, Tensor]:
    """As `draw_with_gradients`, on the kernels themselves."""
    branches, poses, intrinsics, background = scene
    height, width = (37, 40) if background is None else background.shape[:2]
    struct = cuda.Scene(
        tuple(tuple(t.float().contiguous() for t in b) for b in branches),
        poses.float(), intrinsics.float(), None if background is None else background.float(),
        None, UNITS, width, height, coverage,
    )  # fmt: skip
    image, alpha, state = cuda.draw(kernels, struct, keep=True)
    v_image, v_alpha = linear_loss_gradients(image, alpha)
    v, v_poses, v_intrinsics, v_background, sink = cuda.draw_backward(
        kernels, struct, image, alpha, state, v_image, v_alpha, True, deterministic
    )
    out = {"image": image, "alpha": alpha, "sink": sink, "poses": v_poses, "intrinsics": v_intrinsics}
    if v_background is not None:
        out["background"] = v_background
    for i, tensors in enumerate(v):
        out |= {f"{name}{i}": t for name, t in zip(MovingGaussians._fields, tensors, strict=True)}
    return out


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "ordered"])
@pytest.mark.parametrize("name", SCENES)
def test_frames_agree_with_the_twin(name: str, deterministic: bool, kernels: cuda.Library) -> None:
    scene, width, height = SCENES[name]
    expected = render_with_gradients(scene, width, height, "reference")
    assert_same(frames_with_gradients(kernels, scene, width, height, deterministic), expected, TOLERANCE)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "ordered"])
@pytest.mark.parametrize("batch, counts, coverage", [(2, (30, 10, 20), 2), (1, (40, 1, 7), 0), (9, (70, 5, 20), 2)])
def test_moving_gaussians_agree_with_the_twin(batch, counts, coverage, deterministic, kernels: cuda.Library) -> None:
    scene = moving_scene(batch, counts, seed=batch)
    expected = draw_with_gradients(scene, "reference", coverage=coverage)
    assert_same(moving_with_gradients(kernels, scene, coverage, deterministic), expected, TOLERANCE)


def test_without_background_images_are_premultiplied(kernels: cuda.Library) -> None:
    scene = (*moving_scene()[:3], None)
    expected = draw_with_gradients(scene, "reference")
    assert_same(moving_with_gradients(kernels, scene, 2, False), expected, TOLERANCE)


def test_bases_without_motion_and_branches_without_bases(kernels: cuda.Library) -> None:
    scene = moving_scene(2, (20, 6, 5), bases=(0, 2, 1))
    expected = draw_with_gradients(scene, "reference")
    assert_same(moving_with_gradients(kernels, scene, 2, False), expected, TOLERANCE)


def test_many_splats_per_tile_take_several_rounds(kernels: cuda.Library) -> None:
    scene = random_scene(splats=1400, size=40, seed=20, log_scale=0.3, opacity=-3.5)
    expected = render_with_gradients(scene, 40, 40, "reference")
    for deterministic in (False, True):
        assert_same(frames_with_gradients(kernels, scene, 40, 40, deterministic), expected, TOLERANCE)


def test_large_images_have_cells_of_many_tiles(kernels: cuda.Library) -> None:
    scene = random_scene(splats=24, size=2200, seed=21, log_scale=-4.0, spread_cm=1.0)
    scene[8] = torch.tensor([6600.0, 6600.0, 1100.0, 40.0], dtype=torch.float64)
    expected = reference.rasterize(*scene, 2200, 80)
    t = [x.float().contiguous() if x.is_floating_point() else x for x in scene]
    struct = cuda.Scene((tuple(t[:6]),), t[7], t[8], None, t[6], (1.0,) * 14, 2200, 80, 0)
    image, alpha, _ = cuda.draw(kernels, struct, keep=False)
    assert float(alpha.sum()) > 10
    assert relative_error(image, expected[0]) < TOLERANCE and relative_error(alpha, expected[1]) < TOLERANCE


@pytest.mark.parametrize("batch, splats", [(1, 0), (2, 0)])
def test_empty_scenes(batch: int, splats: int, kernels: cuda.Library) -> None:
    scene = random_scene(batch=batch, splats=splats)
    out = frames_with_gradients(kernels, scene, 20, 11, False)
    assert out["image"].shape == (batch, 11, 20, 3) and not out["image"].any() and not out["poses"].any()


def test_ordered_gradients_are_the_same_bits_every_time(kernels: cuda.Library) -> None:
    scene = random_scene(batch=2, splats=200, size=40, seed=12, log_scale=-0.5)
    runs = [frames_with_gradients(kernels, scene, 40, 36, True) for _ in range(2)]
    for name, value in runs[0].items():
        assert torch.equal(runs[1][name], value), name


def test_nan_and_infinity_stay_where_they_are(kernels: cuda.Library) -> None:
    scene = random_scene(splats=30, seed=13)
    bad = [t.clone() for t in scene]
    bad[0][0, 0] = torch.nan
    bad[0][0, 1] = torch.inf
    bad[1][0, 2] = torch.nan
    bad[2][0, 3] = torch.nan
    bad[3][0, 4] = torch.nan
    clean = [t[:, 5:] for t in scene[:5]] + [t[5:] for t in scene[5:7]] + scene[7:]
    out = frames_with_gradients(kernels, bad, 40, 40, False)
    expected = frames_with_gradients(kernels, clean, 40, 40, False)
    assert torch.equal(out["image"], expected["image"])
    assert all(torch.isfinite(t).all() for t in out.values())


def test_half_precision_bases_change_little(kernels: cuda.Library) -> None:
    branches, poses, intrinsics, background = moving_scene()
    images = []
    for dtype in (torch.float32, torch.float16):
        tensors = tuple(tuple(t.to(dtype if i == 6 else torch.float32) for i, t in enumerate(b)) for b in branches)
        struct = cuda.Scene(
            tensors, poses.float(), intrinsics.float(), background.float(), None, UNITS, 40, 37, 0
        )  # fmt: skip
        images.append(cuda.draw(kernels, struct, keep=False)[0])
    assert 0 < float((images[0] - images[1]).abs().max()) < 2e-3


SIZES = [(1, 64, 48, 3), (2, 33, 37, 3), (1, 1, 1, 3), (1, 5, 3, 1), (1, 17, 100, 4)]


@pytest.mark.parametrize("size", SIZES)
def test_image_loss_agrees_with_the_twin(size, kernels: cuda.Library) -> None:
    g = torch.Generator().manual_seed(3)
    image, target = (torch.rand(size, generator=g, dtype=torch.float64) for _ in range(2))
    weights = torch.rand(size[:3], generator=g, dtype=torch.float64)
    leaf = image.clone().requires_grad_()
    l1, ssim = reference.l1_ssim(leaf, target, weights)
    (0.8 * l1 - 0.3 * ssim).backward()
    images = [t.float() for t in (image, target, weights)]
    out, v_ssim = cuda.l1_ssim(kernels, *images, with_gradient=True)
    assert out[:2].tolist() == pytest.approx([float(l1.detach()), float(ssim.detach())], rel=1e-5)
    assert torch.equal(cuda.l1_ssim(kernels, *images, with_gradient=False)[0], out)
    v = cuda.l1_ssim_backward(kernels, images, out[2], v_ssim, torch.tensor(0.8), torch.tensor(-0.3))
    assert leaf.grad is not None and relative_error(v, leaf.grad) < TOLERANCE


def test_a_barrier_that_not_all_threads_reach_is_an_error(tmp_path) -> None:
    """The emulation finds what would hang a GPU."""
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler")
    source = tmp_path / "stuck.cpp"
    source.write_text(
        '#include "simt.h"\n'
        "__global__ void stuck(int) { if (threadIdx.x < 7) __syncthreads(); }\n"
        'extern "C" int run() { avatar::launch(stuck, dim3(1), 64, nullptr, 0); return cudaGetLastError(); }\n'
        'extern "C" const char* why() { return cudaGetErrorString(0); }\n'
    )
    include = simt_build.ROOT / "cuda_ext" / "cuda"
    library = tmp_path / "stuck.so"
    flags = ["-std=c++17", "-DAVATAR_SIMT_EMULATION", f"-I{include}", "-fPIC", "-shared"]
    subprocess.run([str(simt_build.compiler()), *flags, str(source), "-o", str(library)], check=True, timeout=120)
    handle = ctypes.CDLL(str(library))
    handle.why.restype = ctypes.c_char_p
    assert handle.run() != 0
    assert handle.why() == b"not all threads reach __syncthreads"


def test_the_installed_library_holds_every_architecture() -> None:
    path = cuda.library_path()
    if path is None:
        assert shutil.which("nvcc") is None, "nvcc is here, but the package was installed without CUDA kernels"
        pytest.skip("no nvcc when the package was installed")
    cuda.Library(path)  # loads without a GPU, and its structs are those of cuda.py
    found = set(re.findall(rb"sm_(\d+)", path.read_bytes()))
    assert {b"80", b"86", b"89", b"90", b"100", b"120"} <= found


@pytest.mark.gpu
@pytest.mark.parametrize("name", SCENES)
def test_frames_agree_on_a_gpu(name: str) -> None:
    scene, width, height = SCENES[name]
    expected = render_with_gradients(scene, width, height, "reference")
    on_device = [t.cuda() for t in scene]
    actual = render_with_gradients(on_device, width, height, "native", torch.float32)
    assert_same({k: v.cpu() for k, v in actual.items()}, expected, TOLERANCE)


@pytest.mark.gpu
def test_moving_gaussians_agree_on_a_gpu() -> None:
    for batch, counts, coverage in ((2, (30, 10, 20), 2), (9, (300, 50, 100), 2), (1, (2000, 100, 700), 0)):
        scene = moving_scene(batch, counts, seed=batch)
        expected = draw_with_gradients(scene, "reference", coverage=coverage)
        actual = draw_with_gradients(scene, "native", torch.float32, coverage, "cuda")
        assert_same({k: v.cpu() for k, v in actual.items()}, expected, TOLERANCE)


@pytest.mark.gpu
def test_deterministic_mode_gives_the_same_bits_on_a_gpu() -> None:
    scene = moving_scene(4, (3000, 200, 900), width=128, height=128, seed=5)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [draw_with_gradients(scene, "native", torch.float32, 2, "cuda") for _ in range(3)]
    finally:
        torch.use_deterministic_algorithms(False)
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(run[name], value), name


@pytest.mark.gpu
def test_rendering_is_captured_in_a_cuda_graph() -> None:
    from avatar.raster import draw

    branches, poses, intrinsics, background = moving_scene(2, (3000, 200, 900), width=128, height=128)
    moved = [MovingGaussians(*(t.float().cuda() for t in b)) for b in branches]
    poses, intrinsics, background = (t.float().cuda() for t in (poses, intrinsics, background))
    with torch.no_grad():
        draw(moved, poses, intrinsics, background, UNITS, 128, 128)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            image, _ = draw(moved, poses, intrinsics, background, UNITS, 128, 128)
        poses[..., 0, 3] += 1.0
        graph.replay()
        expected, _ = draw(moved, poses, intrinsics, background, UNITS, 128, 128)
    assert torch.equal(image, expected)
