"""The Gaussians of an avatar as one list, in the units and axes that exchange formats share.

Head space is scaled to metres; its axes (x to image right, y up, z out of the face) are those of OpenGL, glTF and SPZ
(right, up, back). Branches follow each other in the order of `conventions.BRANCHES` and keep their own order. The body
is in the clip's reference pose, where head and torso share one space, so no skinning is left to do.

What a splat file cannot say: an avatar composites face over mouth over torso whatever their depth, while a viewer of
splats sorts them all by depth; and the backdrop is a picture, not splats, and stays behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32

from avatar.conventions import BLENDSHAPE_INDEX, BRANCHES
from avatar.dataset import motion_tensors
from avatar.model import Avatar, GaussianBatch
from avatar.types import Motion

METRES = 0.01
"""Of a centimetre."""
SH_C0 = 0.28209479177387814
"""Zeroth real spherical harmonic, 1 / (2 sqrt(pi)): colour = 0.5 + SH_C0 * f_dc (Kerbl et al. 2023)."""


@dataclass(frozen=True)
class Splats:
    """One frozen set of Gaussians."""

    means: Float32[np.ndarray, "N 3"]
    """m; x right, y up, z back."""
    quats: Float32[np.ndarray, "N 4"]
    """wxyz, unit length."""
    log_scales: Float32[np.ndarray, "N 3"]
    """Natural log of the standard deviation in m."""
    opacity_logits: Float32[np.ndarray, " N"]
    colors: Float32[np.ndarray, "N 3"]
    """sRGB-encoded, 0..1, may overshoot."""

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_dc(self) -> Float32[np.ndarray, "N 3"]:
        """The colours as coefficients of the zeroth spherical harmonic."""
        return ((self.colors - 0.5) / SH_C0).astype(np.float32)

    @property
    def opacities(self) -> Float32[np.ndarray, " N"]:
        """0..1."""
        logits = self.opacity_logits.astype(np.float64)
        return (1 / (1 + np.exp(-logits.clip(-60, 60)))).astype(np.float32)


def splats(avatar: Avatar, coefficients: Float[np.ndarray, "52"]) -> Splats:
    """The avatar frozen in one expression, 0..1."""
    parts = _posed(avatar, coefficients)
    quats = _joined(parts, "quats")
    return Splats(
        means=_joined(parts, "means") * np.float32(METRES),
        quats=quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), np.float32(1e-12)),
        log_scales=_joined(parts, "log_scales") + np.float32(np.log(METRES)),
        opacity_logits=_joined(parts, "opacity_logits"),
        colors=_joined(parts, "colors"),
    )


def positions(avatar: Avatar, coefficients: Float[np.ndarray, "52"]) -> Float32[np.ndarray, "N 3"]:
    """Only `Splats.means` of an expression."""
    return _joined(_posed(avatar, coefficients), "means") * np.float32(METRES)


def coefficients_of(avatar: Avatar, named: Mapping[str, float]) -> Float32[np.ndarray, "52"]:
    """The person's mean expression with some coefficients replaced."""
    values = avatar.rest_coefficients()
    for name, value in named.items():
        values[BLENDSHAPE_INDEX[name]] = value
    return values


@torch.no_grad()
def _posed(avatar: Avatar, coefficients: Float[np.ndarray, "52"]) -> list[GaussianBatch]:
    rest = avatar.rest_motion(np.zeros(1))
    row = np.asarray(coefficients, np.float32)[None]
    motion = Motion(rest.times, row, rest.camera_from_head, rest.camera_from_torso)
    weights = avatar.model.weights(motion_tensors(motion, avatar.model.backdrop.device))
    return [avatar.model.branch(name)(weights[name]) for name in BRANCHES]


def _joined(parts: list[GaussianBatch], attribute: str) -> np.ndarray:
    return torch.cat([getattr(p, attribute)[0] for p in parts]).cpu().numpy().astype(np.float32)
