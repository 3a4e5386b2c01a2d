"""One moment of motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from avatar.geometry import columns_at, poses_at
from avatar.types import Motion


@dataclass(frozen=True)
class Pose:
    """Expression and poses, what a model is driven by at one moment."""

    coefficients: Float32[np.ndarray, "52"]
    camera_from_head: Float[np.ndarray, "4 4"]
    camera_from_torso: Float[np.ndarray, "4 4"]
    codes: Float32[np.ndarray, " C"] | None = None
    """Appearance codes, where what plays has any (types.Motion)."""

    def as_motion(self) -> Motion:
        """The same as a motion of one frame."""
        return Motion(
            np.zeros(1),
            self.coefficients[None],
            self.camera_from_head[None],
            self.camera_from_torso[None],
            None if self.codes is None else self.codes[None],
        )


def pose_at(motion: Motion, time: float) -> Pose:
    """The motion at a time in seconds, between two frames where it falls between them; held before and after."""
    times = motion.times
    after = int(np.clip(np.searchsorted(times, time, side="right"), 1, max(1, len(times) - 1)))
    near, moment = motion.at(slice(after - 1, after + 1)), np.array([time])

    def between(rows: np.ndarray) -> np.ndarray:
        return columns_at(moment, near.times, rows)[0].astype(np.float32)

    return Pose(
        between(near.coefficients),
        poses_at(moment, near.times, near.camera_from_head)[0],
        poses_at(moment, near.times, near.camera_from_torso)[0],
        None if near.codes is None else between(near.codes),
    )
