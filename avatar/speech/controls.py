"""What a user may ask of speech-driven motion: amplitude, head, eyes, emotion, another's style."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES, MOUTH_INDICES
from avatar.errors import UserError
from avatar.speech.person import PersonStatistics

POSES = ("generated", "fixed")
GAZES = ("generated", "camera", "fixed")
LARGEST_GAIN = 3.0


@dataclass(frozen=True)
class Style:
    """How someone else's face moves: where it rests and how far each coefficient goes."""

    rest: Float32[np.ndarray, "52"]
    """Mean while the mouth is closed."""
    std: Float32[np.ndarray, "52"]


@dataclass(frozen=True)
class SpeechControls:
    """Settings of a speech-driven motion. The one home of these defaults.

    Raises:
        UserError: a setting out of range.
    """

    gain: float = 1.0
    """How far the mouth moves from rest, 0..LARGEST_GAIN; 1 is the person's own."""
    pose: str = "generated"
    """Head and torso: 'generated' in the person's manner, or 'fixed'."""
    blink: bool = True
    gaze: str = "generated"
    """'generated' in the person's manner, at the 'camera', or 'fixed' in the head."""
    emotion: Mapping[str, float] = field(default_factory=dict)
    """Names of EMOTIONS and how strong, 0..1."""
    style: Style | None = None
    seed: int = 0
    """Another number gives other blinks, glances and head motion."""

    def __post_init__(self) -> None:
        check_gain(self.gain)
        if self.pose not in POSES:
            raise UserError(f"There is no head motion '{self.pose}'; choose {' or '.join(POSES)}.")
        if self.gaze not in GAZES:
            raise UserError(f"There is no gaze '{self.gaze}'; choose {', '.join(GAZES[:-1])} or {GAZES[-1]}.")
        for name, value in self.emotion.items():
            if name not in EMOTIONS:
                raise UserError(f"There is no emotion '{name}'; the emotions are {', '.join(EMOTIONS)}.")
            if not 0 <= value <= 1:
                raise UserError(f"The emotion {name}:{value:g} is out of range; choose 0 to 1.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"The seed {self.seed} is out of range; choose 0 or a larger whole number.")


def check_gain(gain: float) -> None:
    """Raises a UserError for an amplitude out of range."""
    if not 0 <= gain <= LARGEST_GAIN:
        raise UserError(f"A gain of {gain:g} is out of range; choose 0 to {LARGEST_GAIN:g}.")


def parse_emotion(text: str) -> dict[str, float]:
    """``happy:0.6,surprised:0.2`` as a mapping; a name alone counts as 1.

    Raises:
        UserError: not of that form.
    """
    out: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition(":")
        try:
            out[name.strip()] = float(value) if value else 1.0
        except ValueError:
            raise UserError(f"'{part}' is no emotion; write for example happy:0.6,surprised:0.2.") from None
    return out


# --- emotion ---

# Full strength, as offsets. After the action units of Ekman and Friesen's EMFACS in ARKit's names; a name without a
# side means both.
EMOTIONS: dict[str, dict[str, float]] = {
    "happy": {"cheekSquint": 0.4, "eyeSquint": 0.3, "mouthSmile": 0.5, "mouthDimple": 0.05, "browInnerUp": 0.1},
    "sad": {"browInnerUp": 0.9, "browDown": 0.15, "eyeSquint": 0.15, "mouthFrown": 0.75, "mouthShrugLower": 0.2,
            "eyeLookDown": 0.12},
    "angry": {"browDown": 0.9, "eyeSquint": 0.4, "eyeWide": 0.1, "noseSneer": 0.45, "mouthPress": 0.3,
              "mouthFrown": 0.25},
    "surprised": {"browInnerUp": 0.9, "browOuterUp": 0.9, "eyeWide": 0.6, "jawOpen": 0.1},
    "afraid": {"browInnerUp": 0.9, "browOuterUp": 0.3, "browDown": 0.15, "eyeWide": 0.55, "mouthStretch": 0.35},
    "disgusted": {"noseSneer": 0.9, "mouthUpperUp": 0.3, "browDown": 0.4, "eyeSquint": 0.3, "mouthFrown": 0.3},
}  # fmt: skip
_ENVELOPE_SECONDS = 0.8
"""It takes about this long to come."""
_BREATH = 0.12
"""How far the strength wanders around what was asked."""
_BEYOND = 0.9
"""An emotion goes this far beyond what the clip showed of a coefficient: as far as any emotion wants."""
_PARTING = ("jawOpen", "mouthUpperUp", "mouthStretch", "mouthShrug")
_CLOSED_PARTING, _CLOSED_OTHERS = 0.35, 0.85
"""Share that is left of an emotion's mouth where lips are closed: of what parts them, and of the rest."""
_SEALING = {"mouthPress": 0.5, "mouthClose": 0.3}
"""A smile draws closed lips apart; this much of it holds them together."""


def _both_sides(shape: Mapping[str, float]) -> Float32[np.ndarray, "52"]:
    out = np.zeros(len(BLENDSHAPES), np.float32)
    for name, value in shape.items():
        for each in (name, f"{name}Left", f"{name}Right"):
            if each in BLENDSHAPE_INDEX:
                out[BLENDSHAPE_INDEX[each]] = value
    return out


class Emotion:
    """Adds an emotion to a motion without taking its words: around the mouth it gives way where lips must close."""

    def __init__(self, wanted: Mapping[str, float], person: PersonStatistics, seed: int) -> None:
        shapes = [value * _both_sides(EMOTIONS[name]) for name, value in wanted.items()]
        self._offset = np.sum(shapes, axis=0) if shapes else np.zeros(len(BLENDSHAPES), np.float32)
        phases = np.random.default_rng([seed, 4]).uniform(0, 2 * math.pi, 3)
        self._waves = list(zip((0.11, 0.19, 0.31), phases, strict=True))  # Hz; no common period within a minute
        # On top of an expression that the person has anyway, an emotion must not become a grimace.
        self._limit = (person.high + _BEYOND).clip(_BEYOND, 1)
        # How far the person's lips are from closed: 0 at the least of their opening, 1 at the usual.
        jaw = BLENDSHAPE_INDEX["jawOpen"]
        self._closed, self._usual = float(person.low[jaw]), float(person.mean[jaw])
        self._kept = np.ones(len(BLENDSHAPES), np.float32)
        self._kept[list(MOUTH_INDICES)] = _CLOSED_OTHERS
        self._kept[[i for n, i in BLENDSHAPE_INDEX.items() if n.startswith(_PARTING)]] = _CLOSED_PARTING
        self._sealing = self._offset[BLENDSHAPE_INDEX["mouthSmileLeft"]] * _both_sides(_SEALING)

    def add(self, coefficients: Float32[np.ndarray, "N 52"], times: np.ndarray) -> Float32[np.ndarray, "N 52"]:
        """The coefficients with the emotion at these times (seconds from the start)."""
        if not self._offset.any():
            return coefficients
        wander = sum(np.sin(2 * math.pi * hz * times + phase) for hz, phase in self._waves) / len(self._waves)
        strength = (1 - np.exp(-np.maximum(times, 0) / _ENVELOPE_SECONDS)) * (1 + _BREATH * wander)
        jaw = coefficients[:, BLENDSHAPE_INDEX["jawOpen"]]
        opened = ((jaw - self._closed) / max(self._usual - self._closed, 1e-3)).clip(0, 1)[:, None]
        added = np.maximum(self._kept, opened) * self._offset + (1 - opened) * self._sealing
        added = strength[:, None] * added
        # Towards the limit there is less and less room, so that nothing piles up there.
        room = (1 - coefficients / self._limit).clip(0, 1)
        return (coefficients + np.minimum(added, self._limit) * room).clip(0, 1).astype(np.float32)


# --- style ---

_LEAST_RATIO, _MOST_RATIO = 0.4, 2.5
_STILL = 0.005
"""Coefficients that move less than this tell no style: a track need not hold all of them."""
_STYLE_MARGIN = 0.1
"""A style goes this far beyond what the clip showed of a coefficient."""


class StyleTransfer:
    """Moves a motion from this person's rest and spread to another's, coefficient by coefficient; the eyes, whose
    blinks and glances are the person's own, are left alone."""

    def __init__(self, style: Style, person: PersonStatistics) -> None:
        eyes = np.array([name.startswith("eye") for name in BLENDSHAPES])
        told = (style.std >= _STILL) & ~eyes
        ratio = np.clip(style.std / np.maximum(person.std, _STILL), _LEAST_RATIO, _MOST_RATIO)
        self._told, self._ratio = told, ratio
        self._from, self._to = person.rest, style.rest
        self._low, self._high = person.low, person.high

    def apply(self, coefficients: Float32[np.ndarray, "N 52"]) -> Float32[np.ndarray, "N 52"]:
        """The same motion in the other's style, near what the person's face can do."""
        moved = self._to + (coefficients - self._from) * self._ratio
        low, high = np.minimum(self._low, coefficients), np.maximum(self._high, coefficients)
        moved = moved.clip(low - _STYLE_MARGIN, high + _STYLE_MARGIN).clip(0, 1)
        return np.where(self._told, moved, coefficients).astype(np.float32)


def style_of(coefficients: Float32[np.ndarray, "N 52"]) -> Style:
    """The style of a motion track: rest is the mean of its tenth with the least open jaw.

    Raises:
        UserError: fewer than ten frames.
    """
    if len(coefficients) < 10:
        raise UserError(f"A style needs a track of at least 10 frames; this one has {len(coefficients)}.")
    closed = np.argsort(coefficients[:, BLENDSHAPE_INDEX["jawOpen"]], kind="stable")[: len(coefficients) // 10]
    return Style(coefficients[closed].mean(axis=0), coefficients.std(axis=0))
