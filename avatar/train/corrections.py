"""Per-frame corrections of the tracked motion, optimised with the avatar because landmarks jitter.

Only training frames have them. Each frame sees few steps, so its rows are updated only when it is drawn (lazy Adam);
a regulariser keeps them near the tracked motion.
"""

from __future__ import annotations

from dataclasses import replace

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avatar.dataset import MotionBatch

ROTATION_UNIT = 0.01
"""Radians; the size of the tracker's error. Corrections are stored and regularised in these units."""
TRANSLATION_UNIT_CM = 0.1
COLUMNS = 12
"""Head rotation 3, head translation 3, torso rotation 3, torso translation 3."""
BETAS = (0.5, 0.9)
"""Adam's decay rates: a frame is drawn a handful of times, averages must be short."""


class Corrections(nn.Module):
    """A small rigid change of head and torso pose for every frame of the clip; zero at the start."""

    mean: Tensor
    square: Tensor
    visits: Tensor

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(frames, COLUMNS))
        self.register_buffer("mean", torch.zeros(frames, COLUMNS))
        self.register_buffer("square", torch.zeros(frames, COLUMNS))
        self.register_buffer("visits", torch.zeros(frames, dtype=torch.int64))

    def forward(self, indices: Int[Tensor, " B"], motion: MotionBatch) -> tuple[MotionBatch, Float[Tensor, ""]]:
        """The corrected motion and the mean square correction (in units of the expected size)."""
        rows = self.values[indices]
        head = apply_correction(motion.camera_from_head, rows[:, :6])
        torso = apply_correction(motion.camera_from_torso, rows[:, 6:])
        return replace(motion, camera_from_head=head, camera_from_torso=torso), rows.square().mean()

    @torch.no_grad()
    def step(self, indices: Int[Tensor, " B"], rate: float) -> None:
        """One Adam step for the frames that were drawn."""
        if self.values.grad is None:
            return
        grad = self.values.grad[indices]
        self.visits[indices] += 1
        mean = self.mean[indices].lerp(grad, 1 - BETAS[0])
        square = self.square[indices].lerp(grad * grad, 1 - BETAS[1])
        self.mean[indices], self.square[indices] = mean, square
        visits = self.visits[indices].unsqueeze(-1)
        step = (mean / (1 - BETAS[0] ** visits)) / ((square / (1 - BETAS[1] ** visits)).sqrt() + 1e-12)
        self.values[indices] -= rate * step
        self.values.grad = None


def apply_correction(pose: Float[Tensor, "B 3 4"], correction: Float[Tensor, "B 6"]) -> Float[Tensor, "B 3 4"]:
    """Turns the object about its own origin and shifts it in camera space."""
    turn = roma.rotvec_to_rotmat(correction[:, :3] * ROTATION_UNIT)
    rotation = turn @ pose[:, :, :3]
    translation = pose[:, :, 3] + correction[:, 3:] * TRANSLATION_UNIT_CM
    return torch.cat([rotation, translation.unsqueeze(-1)], dim=-1)
