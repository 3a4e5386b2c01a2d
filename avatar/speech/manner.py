"""Everything around the mouth, in the person's own manner: head, torso, brows, gaze and blinks, tick after tick.

Head, torso, gaze and brows follow the person's own recorded motion, cut into stretches and joined where pose and
speed nearly agree (motion matching, as in Clavet 2016); what is left of a difference at a joint fades out like a
critically damped spring, so position and speed never jump. The stretches are drawn at random from a seed, so there is
no loop to see and a result can be repeated; while the avatar speaks, stretches in which the person spoke are preferred,
and stretches of silence while it is silent or listens. Blinks have the person's own rate and shape and are drawn on
their own, the eyes make the small jumps that eyes make, and the brows rise with stressed syllables.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float32

from avatar.conventions import BLENDSHAPES
from avatar.speech.person import BLINK_RATE, EXCERPT_RATE, FACE_INDICES, PersonStatistics, offsets_from_poses
from avatar.track.exchange import EYE_TURN

STRETCH_SECONDS = (3.0, 8.0)
"""How long the person's recorded motion is followed before the next joint."""
FADE_RATE = 2.5
"""Of what is left at a joint, 1/s: half of it is gone after 0.67 s."""
CANDIDATES = 6
"""A joint goes to one of this many best places."""
SPEED_WEIGHT = 0.2
"""Seconds: how much a difference of speed counts against one of pose."""
STATE_WEIGHT = 2.0
"""Standard deviations of pose that the wrong state (speaking or silent) counts as."""
IDLE_MOTION = 0.5
"""Share of the head's motion that is left while silent or listening, where the clip holds no silence to follow."""
SILENCE_SECONDS = 6.0
"""Of silence that a recording must hold for a silent manner to be taken from it."""
STATE_SECONDS = 0.8
"""Time constant at which the manner goes from speaking to silent and back."""

BLINK_REFRACTORY_SECONDS = 0.5
_BLINK_REGULARITY = 3.0  # shape of the gamma distribution of intervals: neither a clock (large) nor clusters (1)
LISTENING_BLINKS = 17 / 26
"""Blinks while listening or at rest per blink while talking (Bentivoglio et al. 1997)."""

MICRO_SACCADES_PER_SECOND = 1.5
"""Martinez-Conde et al. 2004: one to two a second while looking at something."""
MICRO_SACCADE_SIZE = 0.012
"""Typical size as a look coefficient: half a degree, of the 35 degrees that 1 stands for."""
_SACCADE_TICKS = 1.0  # 40 ms from one place to the next
_RETURN_SECONDS = 1.5  # time constant at which the jumps' sum goes back to where the person looks

_LOOK = {a: [FACE_INDICES.index(BLENDSHAPES.index(f"eyeLook{a}{s}")) for s in ("Left", "Right")]
         for a in ("In", "Out", "Up", "Down")}  # fmt: skip
LOOKS: list[int] = sorted(column for pair in _LOOK.values() for column in pair)
"""Columns of FACE_INDICES that turn the eyes."""
BROWS: list[int] = [
    FACE_INDICES.index(BLENDSHAPES.index(n)) for n in ("browInnerUp", "browOuterUpLeft", "browOuterUpRight")
]
"""Columns of FACE_INDICES that rise with stress."""
ACCENT = 1.2
"""How far the brows rise on a stressed syllable, in the person's own standard deviations."""


def shows_silence(person: PersonStatistics) -> bool:
    """Whether the recording shows the person silent for long enough that following it would not look like a loop."""
    return float((person.excerpt_speaking < 0.5).sum()) >= SILENCE_SECONDS * EXCERPT_RATE


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
        self._state = person.excerpt_speaking.astype(np.float64) if shows_silence(person) else None
        self._is_speaking = True
        self._offset = np.zeros(self._track.shape[1])
        self._drift = np.zeros(self._track.shape[1])
        self._since = 0.0

    def _stretch(self) -> int:
        return int(self._random.uniform(*STRETCH_SECONDS) * EXCERPT_RATE)

    def tick(self, speaking: float) -> Float[np.ndarray, " F"]:
        """The next row: head offset (6), torso offset (6), then the coefficients of FACE_INDICES.

        Args:
            speaking: 1 while the avatar speaks, 0 while it is silent or listens.
        """
        row = self._track[self._index] + self._faded()[0]
        if (speaking > 0.5) != self._is_speaking:  # the next joint comes soon, to a stretch of the other kind
            self._is_speaking = speaking > 0.5
            self._left = min(self._left, int(EXCERPT_RATE))
        self._advance()
        return row

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
        total = cost.sum(axis=1)
        if self._state is not None:
            total = total + STATE_WEIGHT**2 * np.abs(self._state[choices] - float(self._is_speaking))
        best = np.argsort(total, kind="stable")[: CANDIDATES * 5 : 5]  # neighbours are one place
        self._index = int(self._random.choice(choices[best]))
        self._offset, self._drift = pose - self._track[self._index], speed - self._speed[self._index]
        self._since, self._left = 0.0, self._stretch()


class Blinks:
    """Moments of full closure at the person's own rate; intervals are gamma distributed."""

    def __init__(self, person: PersonStatistics, seed: int) -> None:
        self._random = np.random.default_rng([seed, 2])
        self._mean = max(1 / max(person.blink_rate, 1e-3) - BLINK_REFRACTORY_SECONDS, 0.2)
        self._shape = person.blink_shape.astype(np.float64)
        self._reach = len(self._shape) // 2 / BLINK_RATE
        self._times = [float(self._random.uniform(0, 1)) / max(person.blink_rate, 1e-3)]

    def until(self, seconds: float, speaking: float = 1.0) -> list[float]:
        """The blinks that still matter, drawn up to `seconds`; fewer come while not `speaking` (0..1)."""
        while self._times[-1] < seconds:
            wait = self._random.gamma(_BLINK_REGULARITY, self._mean / _BLINK_REGULARITY)
            rate = LISTENING_BLINKS + (1 - LISTENING_BLINKS) * speaking
            self._times.append(self._times[-1] + BLINK_REFRACTORY_SECONDS + wait / rate)
        return self._times

    def closure(self, time: float, speaking: float) -> float:
        """0 open .. 1 closed at `time`; times must not go back by more than a blink's length."""
        near = self.until(time + self._reach, speaking)
        while len(near) > 1 and near[0] < time - 2 * self._reach:
            near.pop(0)
        steps = (np.arange(len(self._shape)) - len(self._shape) // 2) / BLINK_RATE
        return max((float(np.interp(time - b, steps, self._shape, left=0, right=0)) for b in near), default=0.0)


class MicroSaccades:
    """Small jumps of the eyes around where the person looks: (right, up) in look coefficients, at EXCERPT_RATE."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([seed, 3])
        self._at, self._target = np.zeros(2), np.zeros(2)

    def tick(self) -> Float[np.ndarray, "2"]:
        """The next one."""
        self._target = self._target * math.exp(-1 / (EXCERPT_RATE * _RETURN_SECONDS))
        if self._random.random() < MICRO_SACCADES_PER_SECOND / EXCERPT_RATE:
            self._target = self._target + self._random.normal(0, MICRO_SACCADE_SIZE, 2)
        self._at = self._at + (self._target - self._at) / _SACCADE_TICKS
        return self._at


def add_gaze(face: Float[np.ndarray, "N F"], right_up: Float[np.ndarray, "N 2"]) -> None:
    """Turns both eyes, in place: columns of FACE_INDICES; a look to one side takes from the other before it adds."""
    for side in (0, 1):
        # The person's left eye looks in when it turns to the person's right (image left).
        sideways = ("Out", "In") if side == 0 else ("In", "Out")
        for value, (plus, minus) in ((right_up[:, 0], sideways), (right_up[:, 1], ("Up", "Down"))):
            net = face[:, _LOOK[plus][side]] - face[:, _LOOK[minus][side]] + value
            both = np.minimum(face[:, _LOOK[plus][side]], face[:, _LOOK[minus][side]])
            face[:, _LOOK[plus][side]] = both + np.maximum(net, 0)
            face[:, _LOOK[minus][side]] = both + np.maximum(-net, 0)


class Manner:
    """Rows at EXCERPT_RATE of everything around the mouth, given what the voice does at each tick."""

    def __init__(self, person: PersonStatistics, seed: int, gaze: str = "generated", head_follows: bool = True) -> None:
        """`head_follows`: the head really moves like this; without, eyes on the camera have nothing to turn against."""
        self._person, self._head_follows = person, head_follows
        self._body, self._saccades, self._gaze = MannerStream(person, seed), MicroSaccades(seed), gaze
        self._level = 1.0
        self._shows_silence = shows_silence(person)
        self._still = np.median(person.excerpt_face, axis=0).astype(np.float64)

    def tick(self, speaking: float, accent: float) -> Float[np.ndarray, " F"]:
        """Head offset (6), torso offset (6), coefficients of FACE_INDICES without blinks, and the manner's own state
        (1 speaking .. 0 silent) last."""
        self._level += (speaking - self._level) / (EXCERPT_RATE * STATE_SECONDS)
        row = self._body.tick(self._level)
        if not self._shows_silence:
            row[:12] *= IDLE_MOTION + (1 - IDLE_MOTION) * self._level
        face = row[12:]
        if self._gaze == "generated":
            add_gaze(face[None], self._saccades.tick()[None])
        elif self._gaze == "fixed":
            face[LOOKS] = self._still[LOOKS]
        else:
            face[LOOKS] = self._camera_gaze(row[:3] if self._head_follows else np.zeros(3))
        brows = [FACE_INDICES[k] for k in BROWS]
        face[BROWS] += accent * ACCENT * self._person.std[brows]
        low, high = self._person.low[FACE_INDICES], self._person.high[FACE_INDICES]
        return np.concatenate([row[:12], face.clip(low, high), [self._level]])

    def _camera_gaze(self, turn: np.ndarray) -> np.ndarray:
        """The person's usual look, turned against the head so that it stays where it was."""
        face = self._still.copy()[None]
        _turn_back(face, turn[None])
        return face[0, LOOKS]


def _turn_back(face: Float[np.ndarray, "N F"], turn: Float[np.ndarray, "N 3"]) -> None:
    """Turns the eyes against a turn of the head (rotation vectors in camera axes), in place."""
    # Camera axes are x right, y down: a positive turn about y is to image left, about x down.
    add_gaze(face, turn[:, 1::-1] / EYE_TURN)


def eyes_against(
    coefficients: Float32[np.ndarray, "N 52"], camera_from_head: Float[np.ndarray, "N 4 4"], person: PersonStatistics
) -> Float32[np.ndarray, "N 52"]:
    """The coefficients of a still head, with eyes that stay on the camera while it takes these poses; within what the
    person's eyes do."""
    face = coefficients[:, FACE_INDICES].astype(np.float64)
    _turn_back(face, offsets_from_poses(camera_from_head, person.neutral_head)[:, :3])
    out, looks = coefficients.copy(), [FACE_INDICES[k] for k in LOOKS]
    low, high = (limit(coefficients[:, looks], own[looks]) for limit, own in
                 ((np.minimum, person.low), (np.maximum, person.high)))  # fmt: skip
    out[:, looks] = face[:, LOOKS].clip(low, high)
    return out


def cubic(rows: Float[np.ndarray, "T F"], at: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N F"]:
    """Catmull-Rom interpolation at fractional rows 1..T-2: smooth at any frame rate."""
    i = np.floor(at).astype(int).clip(1, len(rows) - 3)
    u = (at - i)[:, None]
    a, b, c, d = rows[i - 1], rows[i], rows[i + 1], rows[i + 2]
    return b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
