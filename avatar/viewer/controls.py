"""What sliders and handles do to a pose: emotions, gaze and a turn of the head on top of whatever plays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.geometry import matrix_from_euler
from avatar.speech import PersonStatistics
from avatar.track.exchange import EYE_TURN
from avatar.viewer.pose import Pose

EMOTIONS: dict[str, dict[str, float]] = {
    "happy": {"mouthSmile": 0.75, "cheekSquint": 0.5, "eyeSquint": 0.25, "mouthDimple": 0.2},
    "sad": {"mouthFrown": 0.6, "browInnerUp": 0.7, "mouthShrugLower": 0.35, "eyeLookDown": 0.2, "eyeBlink": 0.12},
    "surprised": {"browInnerUp": 0.7, "browOuterUp": 0.7, "eyeWide": 0.6, "jawOpen": 0.3},
    "angry": {"browDown": 0.8, "eyeSquint": 0.35, "noseSneer": 0.35, "mouthPress": 0.4, "mouthFrown": 0.2},
    "disgusted": {"noseSneer": 0.75, "mouthUpperUp": 0.4, "browDown": 0.35, "cheekSquint": 0.3, "mouthFrown": 0.25},
    "afraid": {"browInnerUp": 0.8, "browOuterUp": 0.3, "eyeWide": 0.6, "mouthStretch": 0.5, "jawOpen": 0.15},
}
"""Emotion -> coefficients at full strength, both sides alike: the action units of EMFACS (Friesen and Ekman 1983) by
the names that ARKit gives to about the same movements."""


MARGIN = (1.5, 0.1)
"""Times the largest that the clip showed, plus: how far a coefficient can go before the picture comes apart."""


def ceiling(person: PersonStatistics) -> Float32[np.ndarray, "52"]:
    """The largest sensible value of each coefficient: an avatar knows only what its clip showed."""
    return (person.high * MARGIN[0] + MARGIN[1]).clip(0, 1).astype(np.float32)


def names_of(stem: str) -> tuple[str, ...]:
    """``mouthSmile`` -> both sides; a coefficient without sides is itself."""
    return (stem,) if stem in BLENDSHAPE_INDEX else (f"{stem}Left", f"{stem}Right")


@dataclass(frozen=True, eq=False)
class Controls:
    """Immutable, so that a drawing never sees half a change; `changed` gives the next one. Equal only to itself."""

    edited: Float32[np.ndarray, "52"] | None = None
    """The expression set by hand; None follows what plays."""
    emotions: dict[str, float] = field(default_factory=dict)
    """Name -> strength, 0..1."""
    gaze: tuple[float, float] = (0.0, 0.0)
    """Degrees to image right and up, added to the gaze of the expression."""
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Yaw, pitch and roll of the head in its own axes, degrees, added to what plays."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the head to image right, up and towards the camera, cm."""
    within: bool = True
    """Stay near what the clip showed, see `ceiling`."""

    def changed(self, **values) -> Controls:
        return dataclasses.replace(self, **values)

    def applied(self, pose: Pose, ceiling: Float32[np.ndarray, "52"]) -> Pose:
        """The pose with everything on top; its appearance codes stay those of the pose.

        Args:
            ceiling: the person's, see `ceiling`; what plays may go beyond it, what is added may not.
        """
        values = pose.coefficients if self.edited is None else self.edited
        largest = np.maximum(ceiling, pose.coefficients) if self.within else 1.0
        values = np.clip(values + self._emotion() + gaze_coefficients(*self.gaze), 0, largest).astype(np.float32)
        head = pose.camera_from_head.copy()
        head[:3, :3] = head[:3, :3] @ matrix_from_euler(np.radians(self.turn))
        head[:3, 3] += np.array(self.shift) * [1, -1, -1]
        return Pose(values, head, pose.camera_from_torso, pose.codes)

    def _emotion(self) -> Float32[np.ndarray, "52"]:
        total = np.zeros(len(BLENDSHAPE_INDEX), np.float32)
        for emotion, strength in self.emotions.items():
            for stem, value in EMOTIONS[emotion].items():
                for name in names_of(stem):
                    total[BLENDSHAPE_INDEX[name]] += strength * value
        return total


def gaze_coefficients(right_degrees: float, up_degrees: float) -> Float32[np.ndarray, "52"]:
    """What a turn of both eyes adds to the eight look coefficients; the opposite direction is taken away.

    Image right is the person's own left."""
    left, up = np.radians(right_degrees) / EYE_TURN, np.radians(up_degrees) / EYE_TURN
    values = np.zeros(len(BLENDSHAPE_INDEX), np.float32)
    for name, amount in (
        ("eyeLookOutLeft", left), ("eyeLookInRight", left), ("eyeLookInLeft", -left), ("eyeLookOutRight", -left),
        ("eyeLookUpLeft", up), ("eyeLookUpRight", up), ("eyeLookDownLeft", -up), ("eyeLookDownRight", -up),
    ):  # fmt: skip
        values[BLENDSHAPE_INDEX[name]] = amount
    return values
