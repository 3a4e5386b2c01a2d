"""Scenes and comparisons shared by the rasterizer's tests."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.raster import rasterize

SCENE_NAMES = ("means", "quats", "log_scales", "opacity_logits", "colors", "skin", "layers", "poses", "intrinsics")


def random_scene(
    batch: int = 1,
    splats: int = 40,
    channels: int = 3,
    size: int = 40,
    seed: int = 0,
    log_scale: float = 0.0,
    spread_cm: float = 4.0,
    layers: int = 3,
    opacity: float = 0.0,
) -> list[Tensor]:
    """Arguments of `rasterize` up to intrinsics, float64; about 3 px per cm times size / 50."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(batch, 2, 1, 1)
    poses[..., 2, 3] = 50.0
    return [
        normal(batch, splats, 3) * torch.tensor([spread_cm, spread_cm, 2.0]),
        normal(batch, splats, 4),
        normal(batch, splats, 3) * 0.4 + log_scale,
        normal(batch, splats) + opacity,
        normal(batch, splats, channels),
        torch.rand(splats, generator=g, dtype=torch.float64),
        torch.randint(0, layers, (splats,), generator=g, dtype=torch.int32),
        poses + 0.02 * normal(batch, 2, 3, 4),
        torch.tensor([3.0 * size, 2.9 * size, size / 2 + 0.3, size / 2 - 0.2], dtype=torch.float64),
    ]


def render(
    scene: list[Tensor], width: int, height: int, backend: str = "auto", grad_sink: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rasterize` with the scene as one list."""
    means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics = scene
    return rasterize(
        means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics, width, height,
        backend=backend, grad_sink=grad_sink,
    )  # fmt: skip


def render_with_gradients(
    scene: list[Tensor], width: int, height: int, backend: str, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """image, alpha, the gradient of every input under a fixed random linear loss, and the grad sink."""
    leaves = [t.to(dtype).clone().requires_grad_() if t.is_floating_point() else t for t in scene]
    sink = torch.zeros(leaves[0].shape[1], 2, dtype=dtype)
    image, alpha = render(leaves, width, height, backend, sink)
    g = torch.Generator().manual_seed(99)
    v_image = torch.randn(image.shape, generator=g, dtype=torch.float64).to(dtype)
    v_alpha = torch.randn(alpha.shape, generator=g, dtype=torch.float64).to(dtype)
    ((image * v_image).sum() + (alpha * v_alpha).sum()).backward()
    out = {"image": image.detach(), "alpha": alpha.detach(), "sink": sink}
    for name, leaf in zip(SCENE_NAMES, leaves, strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None, f"no gradient for {name}"
            out[name] = leaf.grad
    return out


def relative_error(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of b; over 1 where b vanishes."""
    norm = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / (norm if norm > 1e-12 else 1.0)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        assert torch.isfinite(actual[name]).all(), f"{name} is not finite"
        error = relative_error(actual[name], value)
        assert error <= tolerance, f"{name}: relative error {error:.2e} > {tolerance:.0e}"
