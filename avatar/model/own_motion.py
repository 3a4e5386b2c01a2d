"""The clip's own motion inside the avatar file: 148 bytes per frame, 1.1 MB for five minutes at 25 frames a second."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from avatar.conventions import BLENDSHAPES, CODES
from avatar.geometry import matrix_from_rotvec, rigid, rotvec_from_matrix
from avatar.types import Motion, Track


def own_motion(track: Track) -> Motion:
    """The motion of all frames as tracked; where no face was found it is bridged from the neighbours."""
    return Motion(
        np.asarray(track.times, np.float64),
        track.coefficients,
        track.camera_from_head,
        track.camera_from_torso,
        track.codes,
    )


def motion_to_tensors(motion: Motion) -> dict[str, Tensor]:
    """The file's tensors, see `model.file`. Coefficients keep 1/255, poses float32."""

    def pose(values: np.ndarray) -> Tensor:
        rows = np.concatenate([rotvec_from_matrix(values[:, :3, :3]), values[:, :3, 3]], axis=1)
        return torch.from_numpy(rows.astype(np.float32))

    tensors = {
        "times": torch.from_numpy(np.ascontiguousarray(motion.times, np.float64)),
        "coefficients": torch.from_numpy(np.round(motion.coefficients.clip(0, 1) * 255).astype(np.uint8)),
        "head": pose(motion.camera_from_head),
        "torso": pose(motion.camera_from_torso),
    }
    if motion.codes is not None:
        tensors["codes"] = torch.from_numpy(motion.codes.astype(np.float16))
    return tensors


def motion_from_tensors(tensors: dict[str, Tensor]) -> Motion | None:
    """Back from `motion_to_tensors`; None where a file has none.

    Raises:
        KeyError, ValueError: something is missing, of another shape, or times that do not increase.
    """
    if not tensors:
        return None
    times, coefficients = tensors["times"].numpy(), tensors["coefficients"].numpy()
    count = len(times)
    shapes = {"times": (count,), "coefficients": (count, len(BLENDSHAPES)), "head": (count, 6), "torso": (count, 6)}
    codes = tensors.get("codes")
    if codes is not None:
        shapes["codes"] = (count, sum(CODES.values()))
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"motion.{name} has shape {tuple(tensors[name].shape)}, not {shape}")
    if count == 0 or not np.isfinite(times).all() or not (np.diff(times) > 0).all():
        raise ValueError("motion.times do not increase")

    def poses(name: str) -> np.ndarray:
        rows = tensors[name].double().numpy()
        return rigid(matrix_from_rotvec(rows[:, :3]), rows[:, 3:])

    return Motion(
        np.asarray(times, np.float64),
        (coefficients / 255.0).astype(np.float32),
        poses("head"),
        poses("torso"),
        None if codes is None else codes.float().numpy(),
    )
