"""Motion sources: speech, a motion file, another video. Each becomes a `Motion` in the avatar's own space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from avatar.conventions import SAMPLE_RATE
from avatar.drive.edits import read_track_file
from avatar.errors import UserError
from avatar.geometry import columns_at, poses_at
from avatar.media import speech_blocks
from avatar.model import Avatar
from avatar.speech import SpeechStream, following_torso
from avatar.speech.features import MINIMUM_SECONDS, LogMelStream
from avatar.speech.hearing import SpeechMeter
from avatar.track import head_rotations
from avatar.types import Motion, Track

FRAME_RATES = (1.0, 240.0)
"""Slowest and fastest video that is written."""
UNEVEN = 0.25
"""Steps that differ from the median by more than this share of it are no frame rate."""


@dataclass(frozen=True)
class Sound:
    """What is known of a sound before it is spoken."""

    samples: int
    """At SAMPLE_RATE."""
    level: float | None
    """Of its speech (speech.hearing.Level), dB; None where nobody speaks."""

    def frames(self, fps: float) -> int:
        """Pictures that a stream makes of it."""
        return math.ceil(round(self.samples / SAMPLE_RATE * fps, 6))


def measured_sound(path: Path, n_mels: int) -> Sound:
    """Reads a sound once, in constant memory, so that what is wrong at its end is not found after hours of drawing.

    Raises:
        UserError: as `speech_source`.
    """
    mel, meter, heard = LogMelStream(n_mels), SpeechMeter(n_mels), 0
    for samples in speech_blocks(path):
        heard += len(samples)
        meter.hear(mel.push(samples))
    _check_length(path, heard)
    spoken = meter.spoken
    return Sound(heard, None if spoken is None else spoken.level)


def _check_length(path: Path, samples: int) -> None:
    if samples < MINIMUM_SECONDS * SAMPLE_RATE:
        raise UserError(
            f"The sound of {path} is only {samples / SAMPLE_RATE:.2f} s long; at least {MINIMUM_SECONDS} s is needed."
        )


def speech_source(stream: SpeechStream, path: Path) -> Iterator[Motion]:
    """What a fresh stream makes of the sound, piece by piece in constant memory.

    Raises:
        UserError: the sound is missing, unusable or too short.
    """
    heard = 0
    for samples in speech_blocks(path):
        heard += len(samples)
        yield stream.push(samples)
    _check_length(path, heard)
    yield stream.finish()


def file_source(avatar: Avatar, path: Path, fps: float | None) -> Motion:
    """A Live Link Face style CSV or a JSON track: coefficients, and head rotation where the file has it.

    Raises:
        UserError: unreadable file.
    """
    times, coefficients, angles = read_track_file(path)
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


def evened(motion: Motion) -> Motion:
    """A motion whose frame times are uneven (phones film so) at its usual rate; any other as it is."""
    steps = np.diff(motion.times)
    if len(steps) == 0 or np.abs(steps - np.median(steps)).max() <= UNEVEN * np.median(steps):
        return motion
    return resampled(motion, float(np.clip(1 / np.median(steps), *FRAME_RATES)))


def resampled(motion: Motion, fps: float) -> Motion:
    """The motion at an even frame rate: coefficients and positions linear, rotations on the shortest arc."""
    start, end = motion.times[0], motion.times[-1]
    times = start + np.arange(int(np.floor((end - start) * fps + 1e-6)) + 1) / fps
    if len(motion.times) < 2:
        return motion

    def between(columns: Float[np.ndarray, "N D"]) -> Float32[np.ndarray, "M D"]:
        return columns_at(times, motion.times, columns).astype(np.float32)

    return Motion(
        times,
        between(motion.coefficients),
        poses_at(times, motion.times, motion.camera_from_head),
        poses_at(times, motion.times, motion.camera_from_torso),
        None if motion.codes is None else between(motion.codes),
    )
