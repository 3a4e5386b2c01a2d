"""The native code against the twin, on every instruction set this machine can run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from raster_scenes import (
    SCENE_NAMES,
    SCENES,
    UNITS,
    assert_same,
    draw_with_gradients,
    moving_scene,
    random_scene,
    render,
    render_with_gradients,
)

from avatar.raster import native, reference

pytestmark = pytest.mark.skipif(bool(native.unavailable()), reason=f"no native rasterizer: {native.unavailable()}")

F32_TOLERANCE = 1e-4  # norm-wise, of the issue; worst seen on these scenes 2e-5
F64_TOLERANCE = 1e-10  # worst seen 1e-13
LEVELS = native.module().levels() if not native.unavailable() else []


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AVATAR_SIMD", request.param)
    assert native.simd_level() == request.param
    return request.param


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, torch.Tensor]]:
    return {name: render_with_gradients(*case, "reference") for name, case in SCENES.items()}


@pytest.mark.parametrize("name", SCENES)
def test_double_precision_equals_the_twin(name: str, truth) -> None:
    assert_same(render_with_gradients(*SCENES[name], "native", torch.float64), truth[name], F64_TOLERANCE)


@pytest.mark.parametrize("name", SCENES)
def test_single_precision_agrees_with_the_double_twin(name: str, level: str, truth) -> None:
    assert_same(render_with_gradients(*SCENES[name], "native", torch.float32), truth[name], F32_TOLERANCE)


MOVING = {
    "three branches": (moving_scene(), 2),
    "one frame, no coverage": (moving_scene(1, (40, 1, 7), seed=1), 0),
    "several chunks": (moving_scene(3, (300, 5, 130), seed=2), 2),
    "no bases": (moving_scene(2, (20, 6, 5), bases=(0, 2, 0)), 2),
    "one branch": (moving_scene(2, (50,), bases=(3,)), 1),
    "no background": ((*moving_scene()[:3], None), 2),
}


@pytest.mark.parametrize("name", MOVING)
def test_draw_in_double_precision_equals_the_twin(name: str) -> None:
    scene, coverage = MOVING[name]
    expected = draw_with_gradients(scene, "reference", coverage=coverage)
    assert_same(draw_with_gradients(scene, "native", coverage=coverage), expected, F64_TOLERANCE)


@pytest.mark.parametrize("name", MOVING)
def test_draw_in_single_precision_agrees_with_the_double_twin(name: str, level: str) -> None:
    scene, coverage = MOVING[name]
    expected = draw_with_gradients(scene, "reference", coverage=coverage)
    assert_same(draw_with_gradients(scene, "native", torch.float32, coverage), expected, F32_TOLERANCE)


def test_draw_gives_the_same_bits_for_any_thread_count(level: str) -> None:
    scene = moving_scene(2, (700, 100, 400), width=64, height=60, seed=3)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            runs.append(draw_with_gradients(scene, "native", torch.float32))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(run[name], value), name


@pytest.mark.parametrize("batch, splats", [(1, 0), (2, 0), (0, 5)])
def test_empty_scenes(batch: int, splats: int, level: str) -> None:
    scene = random_scene(batch=batch, splats=splats)
    out = render_with_gradients(scene, 20, 11, "native", torch.float32)
    assert out["image"].shape == (batch, 11, 20, 3)
    assert not out["image"].any() and not out["alpha"].any()
    assert not any(out[name].any() for name in SCENE_NAMES if name != "layers")


def test_finite_differences() -> None:
    """Independent of the twin's autograd: the native double code against differences of itself."""
    scene = random_scene(batch=2, splats=4, size=8, seed=3, log_scale=1.6, spread_cm=1.0, opacity=1.0)
    leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in scene]
    assert torch.autograd.gradcheck(lambda *a: render(list(a), 8, 7, backend="native"), leaves, atol=1e-6, rtol=1e-4)


def test_operators_pass_opcheck() -> None:
    from avatar.raster.operators import draw_op, l1_ssim_op, rasterize_op

    for dtype in (torch.float32, torch.float64):
        s = [t.to(dtype).requires_grad_() if t.is_floating_point() else t for t in random_scene(splats=5, size=10)]
        sink = torch.zeros(5, 2, dtype=dtype)
        for grad_sink in (None, sink):
            torch.library.opcheck(rasterize_op, (*s[:6], s[7], s[8], s[6], grad_sink, 10, 9))
        branches, poses, intrinsics, background = moving_scene(width=10, height=9, counts=(5, 3, 4))
        tensors = [t.to(dtype).requires_grad_() for branch in branches for t in branch]
        rest = [t.to(dtype).requires_grad_() for t in (poses, intrinsics, background)]
        torch.library.opcheck(draw_op, (tensors, *rest, list(UNITS), torch.zeros(12, 2, dtype=dtype), 10, 9, 2, True))
    image = torch.rand(1, 6, 7, 3, requires_grad=True)
    torch.library.opcheck(l1_ssim_op, (image, torch.rand(1, 6, 7, 3), torch.rand(1, 6, 7), True))


def test_same_bits_every_time_and_for_any_thread_count(level: str) -> None:
    scene = random_scene(batch=2, splats=900, size=70, seed=12, log_scale=-0.5)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            runs.append(render_with_gradients(scene, 70, 66, "native", torch.float32))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert torch.equal(run[name], value), name


def test_grad_sink_accumulates_over_calls() -> None:
    scene = [t.float() if t.is_floating_point() else t for t in random_scene(batch=2, splats=10)]
    sinks = {}
    for backend in ("native", "reference"):
        sink = torch.zeros(10, 2)
        means = scene[0].clone().requires_grad_()
        first, _ = render([means, *scene[1:]], 40, 40, backend=backend, grad_sink=sink)
        second, _ = render([means, *scene[1:]], 40, 40, backend=backend, grad_sink=sink)
        ((first + second) ** 2).sum().backward()
        sinks[backend] = sink
    torch.testing.assert_close(sinks["native"], sinks["reference"], rtol=1e-4, atol=1e-4)
    assert sinks["native"][:, 1].max() == 4


def test_nothing_is_computed_for_frozen_scenes() -> None:
    scene = random_scene(splats=10)
    image, alpha = render(scene, 20, 20, backend="native")
    assert not image.requires_grad and not alpha.requires_grad


def test_strided_and_expanded_arguments() -> None:
    scene = [t.float() if t.is_floating_point() else t for t in random_scene(batch=2, splats=20)]
    expected, _ = render(scene, 30, 30, backend="native")
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t for t in scene]
    strided[6] = scene[6].long()
    actual, _ = render(strided, 30, 30, backend="native")
    assert torch.equal(actual, expected)
    means = scene[0][:1].clone().requires_grad_()
    image, _ = render([means.expand(2, -1, -1), *scene[1:]], 30, 30, backend="native")
    image.sum().backward()  # an expanded gradient comes in
    assert means.grad is not None and means.grad.shape == (1, 20, 3)


def test_nan_and_infinity_stay_where_they_are(level: str) -> None:
    scene = [t.float() if t.is_floating_point() else t for t in random_scene(splats=30, seed=13)]
    rest = [t[:, 6:] for t in scene[:5]] + [t[6:] for t in scene[5:7]] + scene[7:]
    clean, _ = render(rest, 40, 40, backend="native")
    scene[0][0, 0] = math.nan
    scene[0][0, 1] = math.inf
    scene[1][0, 2] = math.nan
    scene[2][0, 3] = math.nan
    scene[3][0, 4] = math.nan
    scene[0][0, 5, 2] = 3e38
    leaves = [t.requires_grad_() if t.is_floating_point() else t for t in scene]
    image, alpha = render(leaves, 40, 40, backend="native")
    assert torch.equal(image, clean)
    (image.sum() + alpha.sum()).backward()
    assert all(torch.isfinite(t.grad).all() for t in leaves if t.grad is not None)


def test_fuzz_finds_no_nan(level: str) -> None:
    g = torch.Generator().manual_seed(1)
    for seed in range(40):
        size = int(torch.randint(1, 70, (1,), generator=g))
        scene = random_scene(
            batch=1 + seed % 2, splats=int(torch.randint(1, 200, (1,), generator=g)), size=size, seed=seed,
            log_scale=float(torch.randn(1, generator=g)) * 2 - 1, spread_cm=float(torch.rand(1, generator=g)) * 30,
            opacity=float(torch.randn(1, generator=g)) * 4,
        )  # fmt: skip
        scene[0][..., 2] *= 20 if seed % 3 == 0 else 1  # some behind the camera and close to it
        out = render_with_gradients(scene, size, max(1, size // 2 + seed % 5), "native", torch.float32)
        for name, value in out.items():
            assert torch.isfinite(value).all(), (seed, name)
        assert (out["alpha"] >= 0).all() and (out["alpha"] <= 1).all()


def test_constants_are_those_of_the_twin() -> None:
    for name, value in native.module().constants().items():
        assert getattr(reference, name) == value, name


def test_threads_of_python_may_render_at_the_same_time() -> None:
    from concurrent.futures import ThreadPoolExecutor

    scene = [t.float() if t.is_floating_point() else t for t in random_scene(splats=300, size=60)]
    expected, _ = render(scene, 60, 60, backend="native")
    with ThreadPoolExecutor(4) as pool:
        for image, _ in pool.map(lambda _: render(scene, 60, 60, backend="native"), range(12)):
            assert torch.equal(image, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_works_after_fork() -> None:
    code = (
        "import os, torch; torch.set_num_threads(2)\n"
        "from avatar.raster import l1_ssim\n"
        "x = torch.rand(1, 200, 64, 3); w = torch.ones(1, 200, 64)\n"
        "l1_ssim(x, x, w, backend='native')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if abs(float(l1_ssim(x, x, w, backend='native')[1]) - 1) < 1e-5 else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120, cwd=root)
