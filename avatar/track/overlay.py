"""What the tracker saw, drawn over a frame: landmarks, the solved head, its axes, regions and coefficient bars."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from avatar.conventions import BLENDSHAPES, REGION_MOUTH, REGION_TORSO
from avatar.geometry import project, transform
from avatar.track.mesh import FACE_OVAL, INNER_LIPS, LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from avatar.track.prior import landmark_prior
from avatar.types import Track

LANDMARK_COLOUR = (90, 230, 120)
MODEL_COLOUR = (255, 80, 80)
AXES = (((1, 0, 0), (255, 70, 70)), ((0, 1, 0), (80, 220, 80)), ((0, 0, 1), (90, 130, 255)))
AXIS_CM = 6.0
TORSO_TINT, MOUTH_TINT, BACKDROP_SHADE = (70, 120, 255), (255, 60, 200), 0.45
SHOWN = (
    "jawOpen", "mouthClose", "mouthPucker", "mouthFunnel", "mouthSmileLeft", "mouthSmileRight", "mouthLowerDownLeft",
    "mouthUpperUpLeft", "mouthPressLeft", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookInLeft", "eyeLookOutLeft",
    "browInnerUp", "browDownLeft",
)  # fmt: skip


def overlay(frame: UInt8[np.ndarray, "H W 3"], track: Track, i: int, bars: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Frame `i` with the tracker's findings drawn over it.

    Where the frame has no usable face, the head is bridged from the neighbours: no landmarks, and a word says so.

    Green: the detector's landmarks. Red: the solved head (neutral plus expression) reprojected. Red, green and blue
    lines: the head's x, y and z axes. Torso blue, inner mouth magenta, backdrop darkened. Bars: main coefficients.
    """
    image = Image.fromarray(_tinted(frame, track, i))
    draw = ImageDraw.Draw(image)
    size = frame.shape[1]
    dot = max(0.6, size / 700)
    valid = bool(track.valid[i])
    points_of = [(track.landmarks[i], LANDMARK_COLOUR)] if valid else []
    for points, colour in (*points_of, (reprojected(track, i), MODEL_COLOUR)):
        for x, y in points - 0.5:
            draw.ellipse((x - dot / 2, y - dot / 2, x + dot / 2, y + dot / 2), fill=colour)
    for contour in (FACE_OVAL, OUTER_LIPS, INNER_LIPS, LEFT_EYE, RIGHT_EYE) if valid else ():
        line = [tuple(p) for p in (track.landmarks[i][[*contour, contour[0]]] - 0.5).tolist()]
        draw.line(line, fill=LANDMARK_COLOUR, width=1)
    _draw_axes(draw, track, track.camera_from_head[i], AXIS_CM, max(1, size // 200))
    _draw_axes(draw, track, track.camera_from_torso[i], AXIS_CM / 2, max(1, size // 400))
    if not valid:
        draw.text(
            (size / 2, size * 0.04),
            "no face here: bridged",
            fill=MODEL_COLOUR,
            anchor="mm",
            font_size=max(12, size // 24),
        )
    if bars:
        _draw_bars(draw, track, i, size)
    return np.asarray(image)


def reprojected(track: Track, i: int) -> np.ndarray:
    """The neutral head moved by the coefficients through the landmark prior, in pixels of frame `i`. [478, 2]"""
    head = track.neutral + np.tensordot(track.coefficients[i], landmark_prior(), axes=1)
    return project(track.camera, transform(track.camera_from_head[i], head.astype(np.float64)))


def _tinted(frame, track: Track, i: int):
    labels, matte = track.regions.labels(i), track.regions.matte(i)[..., None] / 255
    out = frame.astype(np.float64) * (BACKDROP_SHADE + (1 - BACKDROP_SHADE) * matte)
    for region, tint in ((REGION_TORSO, TORSO_TINT), (REGION_MOUTH, MOUTH_TINT)):
        inside = labels == region
        out[inside] = 0.75 * out[inside] + 0.25 * np.array(tint)
    return out.clip(0, 255).astype(np.uint8)


def _draw_axes(draw, track: Track, camera_from_space: np.ndarray, length: float, width: int) -> None:
    origin = project(track.camera, camera_from_space[:3, 3])
    for axis, colour in AXES:
        tip = transform(camera_from_space, length * np.array([axis], dtype=np.float64))[0]
        draw.line([tuple(origin - 0.5), tuple(project(track.camera, tip) - 0.5)], fill=colour, width=width)


def _draw_bars(draw, track: Track, i: int, size: int) -> None:
    height, length = max(3, size // 60), size * 0.14
    for row, name in enumerate(SHOWN):
        value = float(track.coefficients[i, BLENDSHAPES.index(name)])
        top = 3 + row * (height + 1)
        draw.rectangle((3, top, 3 + length, top + height - 1), fill=(40, 40, 40))
        draw.rectangle((3, top, 3 + length * min(max(value, 0), 1), top + height - 1), fill=(250, 200, 60))
        if size >= 400:
            draw.text((6 + length, top - 2), name, fill=(255, 255, 255))
