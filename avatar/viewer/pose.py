"""One moment of motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from avatar.geometry import matrix_from_rotvec, rotvec_from_matrix
from avatar.types import Motion


@dataclass(frozen=True)
class Pose:
    """Expression and poses, what a model is driven by at one moment."""

    coefficients: Float32[np.ndarray, "52"]
    camera_from_head: Float[np.ndarray, "4 4"]
    camera_from_torso: Float[np.ndarray, "4 4"]

    def as_motion(self) -> Motion:
        """The same as a motion of one frame."""
        return Motion(np.zeros(1), self.coefficients[None], self.camera_from_head[None], self.camera_from_torso[None])


def pose_at(motion: Motion, time: float) -> Pose:
    """The motion at a time in seconds, between two frames where it falls between them; held before and after."""
    times = motion.times
    if len(times) == 1 or time <= times[0]:
        return _frame(motion, 0)
    if time >= times[-1]:
        return _frame(motion, len(times) - 1)
    after = int(np.searchsorted(times, time, side="right"))
    share = float((time - times[after - 1]) / (times[after] - times[after - 1]))
    if share < 1e-6:
        return _frame(motion, after - 1)
    first, second = _frame(motion, after - 1), _frame(motion, after)
    return Pose(
        ((1 - share) * first.coefficients + share * second.coefficients).astype(np.float32),
        _between(first.camera_from_head, second.camera_from_head, share),
        _between(first.camera_from_torso, second.camera_from_torso, share),
    )


def _frame(motion: Motion, index: int) -> Pose:
    return Pose(motion.coefficients[index], motion.camera_from_head[index], motion.camera_from_torso[index])


def _between(
    first: Float[np.ndarray, "4 4"], second: Float[np.ndarray, "4 4"], share: float
) -> Float[np.ndarray, "4 4"]:
    """Shortest turn, straight shift."""
    out = np.eye(4)
    turn = rotvec_from_matrix(first[:3, :3].T @ second[:3, :3])
    out[:3, :3] = first[:3, :3] @ matrix_from_rotvec(share * turn)
    out[:3, 3] = (1 - share) * first[:3, 3] + share * second[:3, 3]
    return out
