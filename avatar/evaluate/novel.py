"""What the clip never showed: the head turned beyond its own range, and expressions it did not make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.dataset import FrameSet
from avatar.model import Avatar
from avatar.track import head_angles, head_rotations

BEYOND_DEGREES: Final = (10, 20)
"""How far beyond the clip's own turns."""
RANGE_PERCENTILES: Final = (1.0, 99.0)
"""The clip's own range of yaw and pitch, without single frames that were tracked wrongly."""
EXPRESSIONS: Final = {
    "brows up": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "frown": ("browDownLeft", "browDownRight"),
    "eyes closed": ("eyeBlinkLeft", "eyeBlinkRight"),
    "one eye closed": ("eyeBlinkLeft",),
    "eyes wide": ("eyeWideLeft", "eyeWideRight"),
    "jaw open": ("jawOpen",),
    "jaw to the side": ("jawRight",),
    "funnel": ("mouthFunnel",),
    "kiss": ("mouthPucker",),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "mouth corners down": ("mouthFrownLeft", "mouthFrownRight"),
    "stretched": ("mouthStretchLeft", "mouthStretchRight"),
    "upper teeth": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "lower teeth": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    "surprise": ("browInnerUp", "eyeWideLeft", "eyeWideRight", "jawOpen"),
}
"""Expressions anyone would try with the sliders, each coefficient at 1."""
SHOWN_EXPRESSIONS: Final = 10


@dataclass(frozen=True)
class NovelView:
    """One rendering without a true frame to compare with."""

    label: str
    detail: str
    """How far beyond the clip it is."""
    rendering: UInt8[np.ndarray, "H W 3"]


def novel_views(avatar: Avatar, frames: FrameSet) -> tuple[NovelView, ...]:
    """The resting avatar, eight turns beyond the clip's range, and the expressions farthest from anything shown."""
    rest = NovelView("at rest", "mean expression", avatar.render())
    return (rest, *_turned(avatar, frames), *_expressions(avatar, frames))


def novel_angles(angles: Float[np.ndarray, "N 3"]) -> list[tuple[str, str, int, float]]:
    """Turns beyond a clip's own.

    Args:
        angles: yaw (to the picture's right), pitch (down), roll of the head in every frame, radians.
    Returns:
        Label, detail, axis (0 yaw, 1 pitch) and the angle in radians.
    """
    low, high = np.percentile(angles[:, :2], RANGE_PERCENTILES, axis=0)
    found = []
    for axis, ends in ((0, ("turned left", "turned right")), (1, ("tilted up", "tilted down"))):
        for name, end, sign in ((ends[0], low[axis], -1.0), (ends[1], high[axis], 1.0)):
            for beyond in BEYOND_DEGREES:
                angle = float(end + sign * np.radians(beyond))
                found.append((f"{name} {abs(np.degrees(angle)):.0f}°", f"{beyond}° beyond the clip", axis, angle))
    return found


def _turned(avatar: Avatar, frames: FrameSet) -> Iterator[NovelView]:
    rest = avatar.rest_pose("camera_from_head")
    for label, detail, axis, angle in novel_angles(head_angles(frames.track.camera_from_head)[frames.track.valid]):
        angles = head_angles(rest[None])
        angles[0, axis] = angle
        pose = rest.copy()
        pose[:3, :3] = head_rotations(angles)[0]
        yield NovelView(label, detail, avatar.render(camera_from_head=pose))


def novel_expressions(coefficients: Float[np.ndarray, "N 52"]) -> list[tuple[str, float]]:
    """Names of `EXPRESSIONS` and how much of each the clip showed at most (0..1), least first."""
    shown = {
        name: float(coefficients[:, [BLENDSHAPE_INDEX[n] for n in names]].min(axis=1).max())
        for name, names in EXPRESSIONS.items()
    }
    return sorted(shown.items(), key=lambda entry: entry[1])[:SHOWN_EXPRESSIONS]


def _expressions(avatar: Avatar, frames: FrameSet) -> Iterator[NovelView]:
    for name, most in novel_expressions(frames.track.coefficients[frames.track.valid]):
        picture = avatar.render(dict.fromkeys(EXPRESSIONS[name], 1.0))
        yield NovelView(name, f"at 1.0; the clip reached {most:.2f}", picture)
