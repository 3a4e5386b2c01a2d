"""From speech to everything the avatar does, in one go; `stream.SpeechStream` does the work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32

from avatar.speech.controls import check_gain
from avatar.speech.features import check_samples, column_times, log_mel
from avatar.speech.model import SpeechModel
from avatar.speech.person import PersonStatistics, offsets_from_poses, poses_from_offsets, smoothed
from avatar.speech.scores import predict_at
from avatar.speech.stream import SpeechStream, mouth_with_gain
from avatar.types import Motion, SpeechFeatures

TORSO_SLOW_SECONDS = 0.4
"""The torso follows the head's motion averaged over about this time."""


def speech_to_motion(stream: SpeechStream, samples: Float[np.ndarray, " S"]) -> Motion:
    """All that a fresh stream says to a whole sound: frames from time 0 to the end of the sound.

    Args:
        samples: mono at SAMPLE_RATE, -1..1.

    Raises:
        UserError: unusable sound.
    """
    return joined([stream.push(check_samples(samples)), stream.finish()])


def joined(parts: list[Motion]) -> Motion:
    """Consecutive motions as one."""
    return Motion(*(np.concatenate(values) for values in zip(*(_arrays(p) for p in parts), strict=True)))


def split(motion: Motion, frames: int) -> Iterator[Motion]:
    """The motion in consecutive parts of at most so many frames."""
    for start in range(0, len(motion.times), frames):
        yield motion.at(slice(start, start + frames))


def _arrays(motion: Motion) -> tuple[np.ndarray, ...]:
    return motion.times, motion.coefficients, motion.camera_from_head, motion.camera_from_torso


def predict_mouth(
    model: SpeechModel,
    statistics: PersonStatistics,
    samples: Float[np.ndarray, " S"],
    times: Float[np.ndarray, " N"],
    gain: float = 1.0,
    offset_seconds: float = 0.0,
) -> Float32[np.ndarray, "N D"]:
    """Mouth coefficients (order of conventions.MOUTH_BLENDSHAPES) at `times` of the sound.

    Args:
        samples: mono at SAMPLE_RATE, -1..1; sample 0 is at time 0.
        gain: how far the mouth moves from rest, 0..controls.LARGEST_GAIN.
        offset_seconds: how much later the sound is than `times` say (a clip whose sound is late).

    Raises:
        UserError: unusable sound, or a gain out of range.
    """
    check_gain(gain)
    columns, _ = log_mel(samples, model.config.n_mels)
    features = SpeechFeatures(columns, column_times(0, len(columns)) - offset_seconds, offset_seconds)
    return mouth_with_gain(predict_at(model, features, times), model, statistics, gain)


def following_torso(
    camera_from_head: Float[np.ndarray, "N 4 4"], statistics: PersonStatistics, times: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N 4 4"]:
    """The torso poses that go with head poses from elsewhere: the head's slow motion, as far as this person's torso
    goes with the head."""
    offsets = offsets_from_poses(camera_from_head, statistics.neutral_head)
    offsets = offsets * np.repeat(statistics.torso_follows, 3)
    return poses_from_offsets(smoothed(offsets, times, TORSO_SLOW_SECONDS), statistics.neutral_torso)
