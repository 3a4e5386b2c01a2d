"""Motion sources: speech, a motion file, another video. Each becomes a `Motion` in the avatar's own space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatar.errors import UserError
from avatar.model import Avatar
from avatar.speech import following_torso, speech_to_motion
from avatar.track import head_rotations, read_motion_csv, read_motion_json
from avatar.types import Motion, Track


def speech_source(
    avatar: Avatar, samples: Float[np.ndarray, " S"], fps: float, pose: str, gain: float, seed: int
) -> Motion:
    """The avatar says what it hears.

    Args:
        samples: mono at SAMPLE_RATE.
        pose: 'generated' or 'fixed' head motion.
        gain: 1 is the person's own lip amplitude.
    Raises:
        UserError: the avatar has no speech model, or an argument out of range.
    """
    if avatar.speech is None:
        raise UserError(
            "This avatar was made from a clip without sound and cannot be driven by speech; drive it with --track or "
            "--video, or fit a clip with sound."
        )
    if pose not in ("generated", "fixed"):
        raise UserError(f"There is no head motion '{pose}'; --pose takes generated or fixed.")
    if not 0 <= gain <= 3:
        raise UserError(f"--gain {gain:g} is out of range; choose 0 to 3.")
    return speech_to_motion(avatar.speech, avatar.person, samples, fps, pose, gain, seed)


def file_source(avatar: Avatar, path: Path, fps: float | None) -> Motion:
    """A Live Link Face style CSV or a JSON track: coefficients, and head rotation where the file has it.

    Raises:
        UserError: unreadable file.
    """
    if not path.is_file():
        raise UserError(f"There is no motion file {path}.")
    if path.suffix.lower() == ".json":
        times, coefficients, angles = read_motion_json(path)
    else:
        times, coefficients, angles = read_motion_csv(path)
    rest = avatar.rest_motion(times)
    head = rest.camera_from_head
    if angles is not None:
        head = head.copy()
        head[:, :3, :3] = head_rotations(angles)
    motion = Motion(times, coefficients, head, following_torso(head, avatar.person, times))
    return motion if fps is None else resampled(motion, fps)


def video_source(avatar: Avatar, track: Track, fps: float | None) -> Motion:
    """Another person's tracked head and expression on the avatar: turned and shifted from its own rest as much as
    they are from theirs."""
    reference = track.reference_frame
    head = transferred(track.camera_from_head, reference, avatar.rest_pose("camera_from_head"))
    torso = transferred(track.camera_from_torso, reference, avatar.rest_pose("camera_from_torso"))
    motion = Motion(track.times, track.coefficients, head, torso)
    return motion if fps is None else resampled(motion, fps)


def transferred(
    poses: Float[np.ndarray, "N 4 4"], reference: int, rest: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "N 4 4"]:
    """`rest` moved as `poses` move from their reference frame: rotation in head space, shift in camera space, cm."""
    moved = np.repeat(rest[None], len(poses), axis=0)
    turn = np.swapaxes(poses[reference, :3, :3][None], 1, 2) @ poses[:, :3, :3]
    moved[:, :3, :3] = rest[:3, :3] @ turn
    moved[:, :3, 3] = rest[:3, 3] + poses[:, :3, 3] - poses[reference, :3, 3]
    return moved


def resampled(motion: Motion, fps: float) -> Motion:
    """The motion at an even frame rate: coefficients and positions linear, rotations on the shortest arc."""
    from scipy.spatial.transform import Rotation, Slerp

    start, end = motion.times[0], motion.times[-1]
    times = start + np.arange(int(np.floor((end - start) * fps + 1e-6)) + 1) / fps
    if len(motion.times) < 2:
        return motion

    def poses(values: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "M 4 4"]:
        out = np.repeat(np.eye(4)[None], len(times), axis=0)
        out[:, :3, :3] = Slerp(motion.times, Rotation.from_matrix(values[:, :3, :3]))(
            times.clip(start, end)
        ).as_matrix()
        out[:, :3, 3] = _columns(times, motion.times, values[:, :3, 3])
        return out

    return Motion(
        times,
        _columns(times, motion.times, motion.coefficients).astype(np.float32),
        poses(motion.camera_from_head),
        poses(motion.camera_from_torso),
    )


def _columns(
    at: Float[np.ndarray, " M"], times: Float[np.ndarray, " N"], values: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, "M D"]:
    return np.stack([np.interp(at, times, column) for column in values.T], axis=1)
