"""The one composite: face over mouth over torso over backdrop.

Used by training, evaluation, drive and the viewer; whatever draws an avatar elsewhere must match it. The branches go
into one call of the rasterizer with their index as compositing layer, so a pixel's splats are ordered by (layer,
depth) and blending them front to back is the composite.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avatar.conventions import BRANCHES
from avatar.model.gaussians import BASIS_UNITS
from avatar.raster import MovingGaussians, draw
from avatar.types import Camera

COVERAGE = 2
"""Branches whose share of each pixel can be drawn too: face and mouth; the torso's is the rest."""


@dataclass(frozen=True)
class Composite:
    """A rendered batch."""

    image: Float[Tensor, "B H W 3"]
    """0..1 for colours that the clip had; not clamped."""
    alpha: Float[Tensor, "B H W"]
    """Coverage by the person, 0..1; the rest is backdrop."""
    coverage: Float[Tensor, "B H W 2"] | None
    """Share of each pixel that shows the face and the mouth branch; the torso's is alpha minus both."""


def to_bytes(image: Float[Tensor, "*b H W 3"]) -> UInt8[np.ndarray, "*b H W 3"]:
    """Colours 0..1 as the bytes of a picture."""
    return image.detach().clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


@functools.lru_cache(maxsize=16)
def camera_intrinsics(camera: Camera, device: torch.device) -> Float[Tensor, "4"]:
    """fx, fy, cx, cy in pixels. Kept, because a copy to a GPU for every picture would make the host wait."""
    return torch.tensor([camera.focal_px, camera.focal_px, camera.cx, camera.cy], device=device)


def compose(
    branches: dict[str, MovingGaussians],
    poses: Float[Tensor, "B 2 3 4"],
    camera: Camera,
    backdrop: Float[Tensor, "H W 3"],
    with_coverage: bool = False,
    grad_sink: Float[Tensor, "N 2"] | None = None,
    backend: str = "auto",
) -> Composite:
    """Draws all branches over the backdrop.

    Args:
        branches: Gaussians and their motion by branch name, all of BRANCHES.
        poses: camera_from_head and camera_from_torso.
        camera: its width and height are the picture's; `backdrop` must have that size.
        with_coverage: also draw which branch each pixel shows (two more channels).
        grad_sink: backward adds to it, per Gaussian (branches in order): the norm of the loss gradient by the
            projected centre, and 1 if it was drawn. What density control steers by.
        backend: of the rasterizer.
    """
    image, alpha = draw(
        [branches[name] for name in BRANCHES],
        poses,
        camera_intrinsics(camera, poses.device).to(poses.dtype),
        backdrop,
        BASIS_UNITS,
        camera.width,
        camera.height,
        coverage=COVERAGE if with_coverage else 0,
        backend=backend,
        grad_sink=grad_sink,
    )
    if not with_coverage:
        return Composite(image, alpha, None)
    return Composite(image[..., :3], alpha, image[..., 3:])
