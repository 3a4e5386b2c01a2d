"""Arguments, errors and the choice of backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from raster_scenes import UNITS, moving_scene, random_scene, render

from avatar.errors import UserError
from avatar.raster import draw, gsplat_backend, l1_ssim, native, ops


def test_unknown_backend_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="Unknown rasterizer backend 'cuda9'; use one of: auto, native, reference"):
        render(random_scene(), 8, 8, backend="cuda9")


def test_sizes_and_channels_are_checked() -> None:
    with pytest.raises(ValueError, match="1 to 32768 px"):
        render(random_scene(), 0, 8)
    with pytest.raises(ValueError, match="1 to 8 channels"):
        render(random_scene(channels=9), 8, 8)
    scene = random_scene()
    with pytest.raises(ValueError, match="grad_sink must have shape"):
        ops._check_scene(scene[:6] + scene[7:], scene[6], 8, 8, torch.zeros(3, 2))


def test_wrong_shapes_fail() -> None:
    scene = random_scene()
    for index in (0, 1, 2, 3, 5, 6, 7, 8):
        bad = list(scene)
        bad[index] = torch.cat([scene[index], scene[index]], dim=-1)
        with pytest.raises((ValueError, TypeError)):  # of the runtime type checker, where one is on
            render(bad, 8, 8)
        with pytest.raises(ValueError, match=r"must have shape|have 3 dimensions|layers must hold"):
            ops._check_scene(bad[:6] + bad[7:], bad[6], 8, 8, None)


def test_mixed_dtypes_fail() -> None:
    scene = random_scene()
    scene[4] = scene[4].float()
    with pytest.raises(ValueError, match=r"colors is torch\.float32"):
        render(scene, 8, 8)


def test_half_precision_takes_the_twin_and_native_says_why_not() -> None:
    scene = [t.bfloat16() if t.is_floating_point() else t for t in random_scene()]
    assert not native.usable(scene[0])
    if not native.unavailable():
        with pytest.raises(UserError, match="works on float32 tensors, and on the CPU on float64"):
            render(scene, 8, 8, backend="native")


def test_missing_extension_warns_once_and_names_the_way_out() -> None:
    code = (
        "import sys, warnings, torch; sys.modules['avatar._raster'] = None\n"
        "from avatar.errors import UserError\n"
        "from avatar.raster import l1_ssim\n"
        "x = torch.rand(1, 4, 4, 3); w = torch.ones(1, 4, 4)\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(3): assert float(l1_ssim(x, x, w)[0]) == 0\n"
        "texts = [str(w.message) for w in seen if 'rasterizer' in str(w.message)]\n"
        "assert len(texts) == 1 and 'pip install' in texts[0], texts\n"
        "try: l1_ssim(x, x, w, backend='native')\n"
        "except UserError as e: print(e)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("The native rasterizer is not available (")
    assert "backend='reference'" in run.stdout


def test_simd_override_that_cannot_run_is_explained() -> None:
    code = "from avatar.raster import native; print(native.unavailable())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2],
        env={"AVATAR_SIMD": "mmx", "PATH": ""},
    )  # fmt: skip
    if not native.unavailable():
        assert "AVATAR_SIMD=mmx cannot run here; use one of: " in run.stdout


def test_l1_ssim_checks_shapes() -> None:
    with pytest.raises((ValueError, TypeError)):
        l1_ssim(torch.rand(1, 4, 4, 3), torch.rand(1, 4, 5, 3), torch.rand(1, 4, 4))


def test_draw_checks_shapes_and_names_the_branch() -> None:
    branches, poses, intrinsics, background = moving_scene()
    bad = [branches[0], branches[1]._replace(bases=branches[1].bases[:, :-1]), branches[2]]
    with pytest.raises(ValueError, match="bases of branch 1 must have shape"):
        draw(bad, poses, intrinsics, background, UNITS, 40, 37)
    with pytest.raises(ValueError, match="background must have shape"):
        draw(branches, poses, intrinsics, background[1:], UNITS, 40, 37)
    with pytest.raises(ValueError, match="1 to 4 branches"):
        draw(branches * 2, poses, intrinsics, background, UNITS, 40, 37)
    with pytest.raises(ValueError, match="coverage is 0 to 5"):
        draw(branches, poses, intrinsics, background, UNITS, 40, 37, coverage=6)


def test_draw_reads_bases_in_half_precision() -> None:
    branches, poses, intrinsics, background = moving_scene()
    half = [b._replace(bases=b.bases.half()) for b in branches]
    image, _ = draw(half, poses, intrinsics, background, UNITS, 40, 37)
    full, _ = draw(branches, poses, intrinsics, background, UNITS, 40, 37)
    assert 0 < float((image - full).abs().max()) < 2e-3


def test_gsplat_that_cannot_run_says_why() -> None:
    if not gsplat_backend.unavailable():
        pytest.skip("gsplat runs here")
    with pytest.raises(UserError, match=r"The gsplat rasterizer cannot run: "):
        render(random_scene(), 8, 8, backend="gsplat")
