"""The twin: it defines "correct", so its own checks are against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from raster_scenes import SCENE_NAMES, random_scene, render

from avatar.raster import reference


def one_splat(size: int = 9, sigma_cm: float = 0.4, logit: float = 0.0) -> list[torch.Tensor]:
    """A round grey splat in front of the image's centre, 20 px per cm at 10 cm."""
    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(1, 2, 1, 1)
    poses[..., 2, 3] = 10.0
    return [
        torch.zeros(1, 1, 3, dtype=torch.float64),
        torch.tensor([[[1.0, 0, 0, 0]]], dtype=torch.float64),
        torch.full((1, 1, 3), math.log(sigma_cm), dtype=torch.float64),
        torch.full((1, 1), logit, dtype=torch.float64),
        torch.full((1, 1, 1), 0.5, dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, dtype=torch.int32),
        poses,
        torch.tensor([50.0, 50.0, size / 2, size / 2], dtype=torch.float64),
    ]


def test_one_splat_is_the_gaussian_it_should_be() -> None:
    image, alpha = render(one_splat(), 9, 9, backend="reference")
    variance = (50 / 10 * 0.4) ** 2  # px^2
    blurred = variance + 0.3
    r2 = torch.arange(-4, 5, dtype=torch.float64) ** 2
    expected = 0.5 * variance / blurred * torch.exp(-0.5 * (r2[:, None] + r2[None, :]) / blurred)
    expected[expected < 1 / 255] = 0
    torch.testing.assert_close(alpha[0], expected)
    torch.testing.assert_close(image[0, ..., 0], 0.5 * expected)


def test_layers_decide_before_depth() -> None:
    scene = one_splat(logit=20.0)
    scene = [torch.cat([t, t], dim=1) for t in scene[:5]] + [scene[5].repeat(2), torch.tensor([1, 0])] + scene[7:]
    scene[0][0, 0, 2] = -3.0  # nearer to the camera, but in the layer behind
    scene[4][0, :, 0] = torch.tensor([1.0, 0.25])
    image, alpha = render(scene, 9, 9, backend="reference")
    front, back = 4.0 / 4.3, (50 / 7 * 0.4) ** 2 / ((50 / 7 * 0.4) ** 2 + 0.3)  # opacities after compensation
    assert float(image[0, 4, 4, 0]) == pytest.approx(0.25 * front + (1 - front) * back, rel=1e-6)
    scene[6] = torch.tensor([0, 1])
    swapped, _ = render(scene, 9, 9, backend="reference")
    assert swapped[0, 4, 4, 0] > 0.9
    assert alpha.max() <= 1


def test_thin_splat_fades_instead_of_staying_a_pixel_wide() -> None:
    sums = []
    for sigma in (0.2, 0.02, 0.002):  # 1, 0.1, 0.01 px
        scene = one_splat(size=15, sigma_cm=sigma, logit=8.0)
        means, quats, log_scales, opacity_logits, _, skin, _, poses, intrinsics = scene
        splats = reference.project(means, quats, log_scales, opacity_logits, skin, poses, intrinsics, 15, 15)
        sums.append(float(splats.opacity[0, 0]))
    assert sums[0] == pytest.approx(1 / 1.3, rel=1e-3)
    assert sums[1] == pytest.approx(0.01 / 0.31, rel=1e-3)
    assert sums[2] == pytest.approx(0.0001 / 0.3001, rel=1e-3)


def test_tiles_do_not_change_the_picture() -> None:
    scene = random_scene(batch=2, splats=60)
    arguments = dict(zip(SCENE_NAMES, scene, strict=True))
    whole = reference.rasterize(**arguments, width=40, height=37, tile_px=64)
    tiled = reference.rasterize(**arguments, width=40, height=37, tile_px=7)
    for a, b in zip(whole, tiled, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [name for name in SCENE_NAMES if name != "layers"])
def test_gradients_against_finite_differences(name: str) -> None:
    """Splats wide enough that no pixel sits on a cut-off within the step of gradcheck."""
    scene = random_scene(batch=2, splats=4, size=8, seed=3, log_scale=1.6, spread_cm=1.0, opacity=1.0)
    index = SCENE_NAMES.index(name)
    leaf = scene[index].clone().requires_grad_()

    def picture(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return render([*scene[:index], t, *scene[index + 1 :]], 8, 7, backend="reference")

    assert torch.autograd.gradcheck(picture, (leaf,), eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)


def test_ssim_of_equal_pictures_is_one_and_gradcheck() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 9, 13, 3, generator=g, dtype=torch.float64)
    weights = torch.rand(1, 9, 13, generator=g, dtype=torch.float64)
    l1, ssim = reference.l1_ssim(image, image, weights)
    assert float(l1) == 0
    assert float(ssim) == pytest.approx(1.0)
    image, weights = image[:, :7, :6, :2], weights[:, :7, :6]
    target = torch.rand(image.shape, generator=g, dtype=torch.float64)
    leaf = image.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference.l1_ssim(x, target, weights), (leaf,), fast_mode=True)


def test_ssim_follows_the_definition() -> None:
    """Against the 2D window written out at one inner pixel."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 1, 15, 15, 1, generator=g, dtype=torch.float64)
    t = torch.arange(-5, 6, dtype=torch.float64)
    w = torch.exp(-(t[:, None] ** 2 + t[None, :] ** 2) / (2 * 1.5**2))
    w = w / w.sum()
    a, b = x[0, 2:13, 2:13, 0], y[0, 2:13, 2:13, 0]
    ma, mb = (w * a).sum(), (w * b).sum()
    va, vb, c = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
    expected = (2 * ma * mb + 1e-4) * (2 * c + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    torch.testing.assert_close(reference.ssim_map(x, y)[0, 7, 7, 0], expected)
