"""gsplat as a second backend: its inputs against the twin here, its pictures on a GPU."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import draw_with_gradients, moving_scene, random_scene, relative_error, render_with_gradients

from avatar.raster import gsplat_backend, reference


def test_camera_space_covariance_projects_to_the_twins_conic() -> None:
    means, quats, log_scales, opacity, _, skin, _, poses, k = random_scene(batch=2, splats=30)
    splats = reference.project(means, quats, log_scales, opacity, skin, poses, k, 40, 40)
    position, covariance = gsplat_backend.camera_space(means, quats, log_scales, skin, poses)
    x, y, z = position.unbind(-1)
    zero = torch.zeros_like(x)
    jacobian = torch.stack([k[0] / z, zero, -k[0] * x / z**2, zero, k[1] / z, -k[1] * y / z**2], -1).unflatten(
        -1, (2, 3)
    )
    flat = jacobian @ covariance @ jacobian.mT + reference.BLUR_PX2 * torch.eye(2, dtype=torch.float64)
    conic = torch.linalg.inv(flat)
    inside = ((splats.mean2d > 0) & (splats.mean2d < 40)).all(-1)  # away from the clamp of the Jacobian
    assert inside.sum() > 20
    expected = torch.stack([conic[..., 0, 0], conic[..., 0, 1], conic[..., 1, 1]], -1)
    torch.testing.assert_close(splats.conic[inside], expected[inside])


needs_gsplat = pytest.mark.skipif(bool(gsplat_backend.unavailable()), reason=gsplat_backend.unavailable())


@pytest.mark.gpu
@needs_gsplat
@pytest.mark.parametrize("layers", [1, 3])
def test_frames_agree_with_ours_within_its_known_differences(layers: int) -> None:
    scene = [t.cuda() for t in random_scene(batch=2, splats=400, size=64, layers=layers, seed=4)]
    ours = render_with_gradients(scene, 64, 60, "native", torch.float32)
    theirs = render_with_gradients(scene, 64, 60, "gsplat", torch.float32)
    assert float((ours["image"] - theirs["image"]).abs().max()) < 0.03
    for name in ("means", "quats", "log_scales", "opacity_logits", "colors", "poses"):
        assert relative_error(theirs[name], ours[name]) < 0.02, name


@pytest.mark.gpu
@needs_gsplat
def test_moving_gaussians_agree_with_ours() -> None:
    scene = moving_scene(2, (300, 40, 100), width=64, height=60)
    ours = draw_with_gradients(scene, "native", torch.float32, 0, "cuda")
    theirs = draw_with_gradients(scene, "gsplat", torch.float32, 0, "cuda")
    for name, value in ours.items():
        if name not in ("sink", "intrinsics"):
            assert relative_error(theirs[name], value) < 0.02, name
