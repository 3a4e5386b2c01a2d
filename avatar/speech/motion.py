"""From speech to everything the avatar does: the mouth from the sound, the rest in the person's own manner.

Head, torso, gaze and brows follow the person's own recorded motion, cut into stretches and joined where pose and
speed nearly agree (motion matching, as in Clavet 2016); what is left of a difference at a joint fades out like a
critically damped spring, so position and speed never jump. The stretches are drawn at random from a seed, so there is
no loop to see and a result can be repeated. Blinks have the person's own rate and shape and are drawn on their own.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float32

from avatar.conventions import BLENDSHAPE_INDEX, MOUTH_INDICES, SAMPLE_RATE
from avatar.errors import UserError
from avatar.speech.features import check_samples, column_times, log_mel
from avatar.speech.model import SpeechModel
from avatar.speech.person import (
    BLINK_RATE,
    EXCERPT_RATE,
    EYE_COLUMNS,
    FACE_INDICES,
    PersonStatistics,
    offsets_from_poses,
    poses_from_offsets,
    smoothed,
)
from avatar.speech.scores import predict_at
from avatar.types import Motion, SpeechFeatures

POSES = ("generated", "fixed")
LARGEST_GAIN = 3.0
LARGEST_FPS = 240.0

STRETCH_SECONDS = (3.0, 8.0)
"""How long the person's recorded motion is followed before the next joint."""
FADE_RATE = 2.5
"""Of what is left at a joint, 1/s: half of it is gone after 0.67 s."""
CANDIDATES = 6
"""A joint goes to one of this many best places."""
SPEED_WEIGHT = 0.2
"""Seconds: how much a difference of speed counts against one of pose."""
BLINK_REFRACTORY_SECONDS = 0.5
_BLINK_REGULARITY = 3.0  # shape of the gamma distribution of intervals: neither a clock (large) nor clusters (1)
TORSO_SLOW_SECONDS = 0.4
"""The torso follows the head's motion averaged over about this time."""


class MannerStream:
    """The person's head, torso, brows and gaze, tick after tick at EXCERPT_RATE; the same for the same seed."""

    def __init__(self, person: PersonStatistics, seed: int) -> None:
        self._random = np.random.default_rng([seed, 1])
        self._track = np.concatenate([person.excerpt_head, person.excerpt_torso, person.excerpt_face], axis=1)
        self._track = self._track.astype(np.float64)
        self._speed = np.gradient(self._track, 1 / EXCERPT_RATE, axis=0) if len(self._track) > 1 else 0 * self._track
        # Only head and torso decide where to join: a glance may well go elsewhere meanwhile.
        scale = self._track.std(axis=0)
        self._match = np.where(np.arange(self._track.shape[1]) < 12, 1 / np.maximum(scale, 1e-3), 0.0)
        self._index = int(self._random.integers(max(1, len(self._track) // 2)))
        self._left = self._stretch()
        self._offset = np.zeros(self._track.shape[1])
        self._drift = np.zeros(self._track.shape[1])
        self._since = 0.0

    def _stretch(self) -> int:
        return int(self._random.uniform(*STRETCH_SECONDS) * EXCERPT_RATE)

    def take(self, ticks: int) -> Float[np.ndarray, "ticks F"]:
        """The next `ticks` rows: head offset (6), torso offset (6), then the coefficients of FACE_INDICES."""
        rows = np.empty((ticks, self._track.shape[1]))
        for tick in range(ticks):
            rows[tick] = self._track[self._index] + self._faded()[0]
            self._advance()
        return rows

    def _faded(self) -> tuple[np.ndarray, np.ndarray]:
        """What is left of the difference at the last joint, and its speed: a critically damped spring."""
        approach, decay = self._drift + FADE_RATE * self._offset, math.exp(-FADE_RATE * self._since)
        left = (self._offset + approach * self._since) * decay
        return left, approach * decay - FADE_RATE * left

    def _advance(self) -> None:
        self._left -= 1
        if self._left <= 0 or self._index + 1 >= len(self._track):
            self._join()
        self._index = min(self._index + 1, len(self._track) - 1)
        self._since += 1 / EXCERPT_RATE

    def _join(self) -> None:
        """Moves to another place of the recording, carrying on pose and speed."""
        left, drift = self._faded()
        pose, speed = self._track[self._index] + left, self._speed[self._index] + drift
        choices = np.arange(max(1, len(self._track) - int(EXCERPT_RATE)))  # at least a second must follow
        far = choices[np.abs(choices - self._index) > EXCERPT_RATE]
        choices = far if len(far) else choices
        cost = ((self._track[choices] - pose) * self._match) ** 2
        cost = cost + ((self._speed[choices] - speed) * self._match * SPEED_WEIGHT) ** 2
        best = np.argsort(cost.sum(axis=1), kind="stable")[: CANDIDATES * 5 : 5]  # neighbours are one place
        self._index = int(self._random.choice(choices[best]))
        self._offset, self._drift = pose - self._track[self._index], speed - self._speed[self._index]
        self._since, self._left = 0.0, self._stretch()


def blink_times(person: PersonStatistics, seconds: float, seed: int) -> Float[np.ndarray, " K"]:
    """Moments of full closure between 0 and `seconds`, at the person's own rate; intervals are gamma distributed."""
    random, times = np.random.default_rng([seed, 2]), []
    mean = max(1 / max(person.blink_rate, 1e-3) - BLINK_REFRACTORY_SECONDS, 0.2)
    at = random.uniform(0, 1) / max(person.blink_rate, 1e-3)
    while at < seconds:
        times.append(at)
        at += BLINK_REFRACTORY_SECONDS + random.gamma(_BLINK_REGULARITY, mean / _BLINK_REGULARITY)
    return np.array(times)


def _closure(person: PersonStatistics, blinks: Float[np.ndarray, " K"], times: np.ndarray) -> Float[np.ndarray, " N"]:
    """0 open .. 1 closed."""
    closed = np.zeros(len(times))
    shape = person.blink_shape.astype(np.float64)
    steps = (np.arange(len(shape)) - len(shape) // 2) / BLINK_RATE
    for blink in blinks:
        near = slice(*np.searchsorted(times, [blink + steps[0], blink + steps[-1]]))
        closed[near] = np.maximum(closed[near], np.interp(times[near] - blink, steps, shape, left=0, right=0))
    return closed


def speech_to_motion(
    model: SpeechModel,
    statistics: PersonStatistics,
    samples: Float[np.ndarray, " S"],
    fps: float,
    pose: str = "generated",
    gain: float = 1.0,
    seed: int = 0,
) -> Motion:
    """The motion of the person saying `samples`.

    Args:
        samples: mono at SAMPLE_RATE, -1..1.
        fps: frames per second of the motion.
        pose: 'generated' head and torso motion in the person's manner, or 'fixed'.
        gain: how far the mouth moves from rest; 1 is the person's own.
        seed: another number gives other blinks, glances and head motion.

    Returns:
        ceil(seconds * fps) frames from time 0 on.

    Raises:
        UserError: unusable sound, or a setting out of range.
    """
    if pose not in POSES:
        raise UserError(f"There is no head motion '{pose}'; choose {' or '.join(POSES)}.")
    if not 0 < fps <= LARGEST_FPS:
        raise UserError(f"{fps:g} frames per second is out of range; choose more than 0, at most {LARGEST_FPS:g}.")
    samples = check_samples(samples)
    times = np.arange(math.ceil(len(samples) / SAMPLE_RATE * fps)) / fps
    mouth = predict_mouth(model, statistics, samples, times, gain)
    head, torso, face = _manner(statistics, times, seed)
    coefficients = np.zeros((len(times), len(BLENDSHAPE_INDEX)), np.float32)
    coefficients[:, FACE_INDICES] = face
    coefficients[:, list(MOUTH_INDICES)] = mouth
    if pose == "fixed":
        head, torso = 0 * head, 0 * torso
    return Motion(
        times,
        coefficients,
        poses_from_offsets(head, statistics.neutral_head),
        poses_from_offsets(torso, statistics.neutral_torso),
    )


def _manner(
    person: PersonStatistics, times: Float[np.ndarray, " N"], seed: int
) -> tuple[Float[np.ndarray, "N 6"], Float[np.ndarray, "N 6"], Float32[np.ndarray, "N F"]]:
    """Head and torso offsets and the coefficients around the mouth, blinks included."""
    ticks = math.ceil(times[-1] * EXCERPT_RATE) + 3
    rows = _cubic(MannerStream(person, seed).take(ticks), times * EXCERPT_RATE + 1)
    face = rows[:, 12:].clip(person.low[FACE_INDICES], person.high[FACE_INDICES])
    closed = _closure(person, blink_times(person, float(times[-1]) + 1, seed), times)
    eyes = face[:, EYE_COLUMNS]
    face[:, EYE_COLUMNS] = eyes + closed[:, None] * (person.blink_closed[EYE_COLUMNS] - eyes)
    return rows[:, :6], rows[:, 6:12], face.clip(0, 1).astype(np.float32)


def _cubic(rows: Float[np.ndarray, "T F"], at: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N F"]:
    """Catmull-Rom interpolation at fractional rows 1..T-2: smooth at any frame rate."""
    i = np.floor(at).astype(int).clip(1, len(rows) - 3)
    u = (at - i)[:, None]
    a, b, c, d = rows[i - 1], rows[i], rows[i + 1], rows[i + 2]
    return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))


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
        gain: how far the mouth moves from rest, 0..LARGEST_GAIN.
        offset_seconds: how much later the sound is than `times` say (a clip whose sound is late).

    Raises:
        UserError: unusable sound, or a gain out of range.
    """
    if not 0 <= gain <= LARGEST_GAIN:
        raise UserError(f"A gain of {gain:g} is out of range; choose 0 to {LARGEST_GAIN:g}.")
    columns, _ = log_mel(samples, model.config.n_mels)
    features = SpeechFeatures(columns, column_times(0, len(columns)) - offset_seconds, offset_seconds)
    rest = model.rest.cpu().numpy()
    index = list(MOUTH_INDICES)
    low, high = (np.clip(rest + max(gain, 1.0) * (s[index] - rest), 0, 1) for s in (statistics.low, statistics.high))
    mouth = rest + gain * (predict_at(model, features, times) - rest)
    return mouth.clip(np.minimum(low, rest), np.maximum(high, rest)).astype(np.float32)


def following_torso(
    camera_from_head: Float[np.ndarray, "N 4 4"], statistics: PersonStatistics, times: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N 4 4"]:
    """The torso poses that go with head poses from elsewhere: the head's slow motion, as far as this person's torso
    goes with the head."""
    offsets = offsets_from_poses(camera_from_head, statistics.neutral_head)
    offsets = offsets * np.repeat(statistics.torso_follows, 3)
    return poses_from_offsets(smoothed(offsets, times, TORSO_SLOW_SECONDS), statistics.neutral_torso)
