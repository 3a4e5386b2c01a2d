"""The one composite: face over mouth over torso over backdrop.

Used by training, evaluation, drive and the viewer; whatever draws an avatar elsewhere must match it. The branches go
into one rasterizer call with their index as compositing layer, so a pixel's splats are ordered by (layer, depth) and
blending them front to back is the composite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar.conventions import BRANCHES
from avatar.model.gaussians import GaussianBatch
from avatar.raster import rasterize
from avatar.types import Camera


@dataclass(frozen=True)
class Composite:
    """A rendered batch."""

    image: Float[Tensor, "B H W 3"]
    """0..1 for colours that the clip had; not clamped."""
    alpha: Float[Tensor, "B H W"]
    """Coverage by the person, 0..1; the rest is backdrop."""
    coverage: Float[Tensor, "B H W 2"] | None
    """Share of each pixel that shows the face and the mouth branch; the torso's is alpha minus both."""


def camera_intrinsics(camera: Camera, device: torch.device) -> Float[Tensor, "4"]:
    """fx, fy, cx, cy in pixels."""
    return torch.tensor([camera.focal_px, camera.focal_px, camera.cx, camera.cy], device=device)


def compose(
    branches: dict[str, GaussianBatch],
    poses: Float[Tensor, "B 2 3 4"],
    camera: Camera,
    backdrop: Float[Tensor, "H W 3"],
    with_coverage: bool = False,
    grad_sink: Float[Tensor, "N 2"] | None = None,
) -> Composite:
    """Draws all branches over the backdrop.

    Args:
        branches: deformed Gaussians by branch name, all of BRANCHES.
        poses: camera_from_head and camera_from_torso.
        camera: its width and height are the picture's; `backdrop` must have that size.
        with_coverage: also draw which branch each pixel shows (two more channels).
        grad_sink: backward adds to it, per Gaussian (branches in order): the norm of the loss gradient by the
            projected centre, and 1 if it was drawn. What density control steers by.
    """
    parts = [branches[name] for name in BRANCHES]
    counts = [p.means.shape[1] for p in parts]
    device = parts[0].means.device
    layers = torch.cat([torch.full((n,), i, dtype=torch.int32, device=device) for i, n in enumerate(counts)])
    colors = torch.cat([p.colors for p in parts], dim=1)
    if with_coverage:
        colors = torch.cat([colors, _layer_colors(layers, colors.shape[0], colors.dtype)], dim=-1)
    image, alpha = rasterize(
        torch.cat([p.means for p in parts], dim=1),
        torch.cat([p.quats for p in parts], dim=1),
        torch.cat([p.log_scales for p in parts], dim=1),
        torch.cat([p.opacity_logits for p in parts], dim=1),
        colors,
        torch.cat([p.skin for p in parts]),
        layers,
        poses,
        camera_intrinsics(camera, device).to(colors.dtype),
        camera.width,
        camera.height,
        grad_sink=grad_sink,
    )
    over = image[..., :3] + (1.0 - alpha).unsqueeze(-1) * backdrop
    return Composite(over, alpha, image[..., 3:] if with_coverage else None)


def _layer_colors(layers: Int[Tensor, " N"], batch: int, dtype: torch.dtype) -> Float[Tensor, "B N 2"]:
    """One-hot colours of the face and mouth layer."""
    hot = torch.stack([layers == 0, layers == 1], dim=-1).to(dtype)
    return hot.expand(batch, -1, -1)
