"""View-dependent colours: the twin by what it must be, the native code and the CUDA kernels by the twin."""

from __future__ import annotations

import pytest
import simt_build
import torch
from raster_scenes import random_scene, relative_error
from torch import Tensor

from avatar.raster import cuda, native, sh_colors
from avatar.raster.operators import sh_colors_op

NAMES = ("sh", "means", "skin", "poses")


def sh_scene(terms: int = 4, channels: int = 3, splats: int = 600) -> list[Tensor]:
    means, _, _, _, _, skin, _, poses, _ = random_scene(batch=2, splats=splats)
    g = torch.Generator().manual_seed(1)
    return [torch.randn(splats, terms, channels, generator=g, dtype=torch.float64), means, skin, poses]


def gradients(scene: list[Tensor], backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    leaves = [t.to(dtype).clone().requires_grad_() for t in scene]
    colors = sh_colors(*leaves, backend=backend)
    g = torch.Generator().manual_seed(2)
    (colors * torch.randn(colors.shape, generator=g, dtype=torch.float64).to(dtype)).sum().backward()
    return {"colors": colors.detach()} | {n: t.grad for n, t in zip(NAMES, leaves, strict=True) if t.grad is not None}


def test_the_twin_has_the_harmonics_of_a_frontal_view() -> None:
    """A Gaussian straight ahead of an upright camera is seen along +z: only the z term of degree 1 shows."""
    sh = torch.arange(1.0, 5.0, dtype=torch.float64).view(1, 4, 1)
    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(1, 2, 1, 1)
    poses[..., 2, 3] = 50.0
    colors = sh_colors(sh, torch.zeros(1, 1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64), poses)
    assert float(colors) == pytest.approx(0.28209479177387814 * 1 + 0.4886025119029199 * 3)


def test_turning_head_and_camera_together_changes_nothing() -> None:
    sh, means, skin, _ = sh_scene()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    rigid = torch.eye(4, dtype=torch.float64)[:3].repeat(2, 2, 1, 1)
    rigid[..., 2, 3] = 50.0
    torch.testing.assert_close(sh_colors(sh, means, skin, turn @ rigid), sh_colors(sh, means, skin, rigid))


@pytest.mark.skipif(bool(native.unavailable()), reason="no native rasterizer")
@pytest.mark.parametrize("terms, channels", [(1, 3), (4, 3), (4, 1), (4, 8)])
def test_native_code_agrees_with_the_twin(terms: int, channels: int) -> None:
    scene = sh_scene(terms, channels)
    expected = gradients(scene, "reference", torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        actual = gradients(scene, "native", dtype)
        for name, value in expected.items():
            assert relative_error(actual[name], value) < tolerance, (name, dtype)


def test_operator_passes_opcheck() -> None:
    scene = [t.float().requires_grad_() for t in sh_scene(splats=9)]
    torch.library.opcheck(sh_colors_op, tuple(scene))


def test_cuda_kernels_agree_with_the_twin() -> None:
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler")
    kernels = cuda.Library(simt_build.build("simt", list(simt_build.SOURCES), ["-O2", "-fPIC", "-shared"]))
    scene = sh_scene()
    expected = gradients(scene, "reference", torch.float64)
    single = [t.float() for t in scene]
    assert relative_error(cuda.sh_colors(kernels, single), expected["colors"]) < 1e-5
    v_colors = torch.randn(expected["colors"].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for name, value in zip(NAMES, cuda.sh_colors_backward(kernels, single, v_colors.float()), strict=True):
        assert relative_error(value, expected[name]) < 1e-5, name


@pytest.mark.gpu
def test_agrees_on_a_gpu() -> None:
    scene = sh_scene()
    expected = gradients(scene, "reference", torch.float64)
    actual = gradients([t.cuda() for t in scene], "native", torch.float32)
    for name, value in expected.items():
        assert relative_error(actual[name].cpu(), value) < 1e-5, name


def test_arguments_are_checked() -> None:
    sh, means, skin, poses = sh_scene()
    with pytest.raises((ValueError, TypeError)):
        sh_colors(sh[:, :2], means, skin, poses)
    with pytest.raises((ValueError, TypeError)):
        sh_colors(sh, means, skin[1:], poses)
