"""Chooses the fixed square of the clip that becomes the avatar's frame: head and shoulders of one person."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

import numpy as np

from avatar.capture.faces import Face, Sighting
from avatar.errors import UserError
from avatar.types import Crop

FACE_SHARE = 0.40
"""Height of the face box (brows to chin) in the square, of its side: hair, neck and shoulders fit around it."""
FACE_HEIGHT = 0.47
"""Where the centre of the face box lies, from the top of the square."""
_FRAMED_SHARE = 0.22
"""In a square clip whose face box is at least this share of the side, the person has framed the shot: keep it all."""
_NEARLY_SQUARE = 0.05
_MARGIN_X, _MARGIN_Y = 1.6, 2.0
"""Face boxes that must fit across and down the square beside the range that the face moves over."""
_RANGE = (5, 95)
"""Percentiles of the face's places that count as its range; the rest may be false finds."""
_DEFAULT_SIZE = 512
MIN_SIZE = 64
"""Smallest frame that can be asked for, px; no face can be tracked in less."""


def choose_crop(sightings: Sequence[Sighting], upright_size: tuple[int, int], size: int | None) -> Crop:
    """The square for all frames of an upright picture of (width, height) px, scaled to `size` px (None: at most 512).

    Never larger than the picture, never scaled up. Raises UserError for an odd request, for no face, for two people."""
    if size is not None and size < MIN_SIZE:
        raise UserError(f"A frame of {size} px is too small for an avatar; ask for {MIN_SIZE} px or more.")
    _one_person(sightings)
    width, height = upright_size
    faces = _main_faces(sightings, height / width)
    side = _side(faces, width, height)
    x = _middle([face.x * width for face in faces])
    y = _middle([face.y * height for face in faces])
    left = min(max(round(x - side / 2), 0), width - side)
    top = min(max(round(y - FACE_HEIGHT * side), 0), height - side)
    out = min(size or _DEFAULT_SIZE, side)
    return Crop(left, top, side, out - out % 2)


def _main_faces(sightings: Sequence[Sighting], aspect: float) -> list[Face]:
    """Of each picture with faces the one nearest to where the face is when it is alone: somebody nearer to the camera
    may walk through. `aspect` is the picture's height over its width."""
    seen = [s for s in sightings if s.faces]
    alone = [s.faces[0] for s in seen if not s.crowded] or [s.faces[0] for s in seen]
    x, y = (float(np.median([getattr(face, axis) for face in alone])) for axis in "xy")
    return [min(s.faces, key=lambda face: hypot(face.x - x, (face.y - y) * aspect)) for s in seen]


def _one_person(sightings: Sequence[Sighting]) -> None:
    if not any(s.faces for s in sightings):
        raise UserError(
            f"No face was found in any of {len(sightings)} pictures spread over the clip;"
            " film one person from the front, in good light."
        )
    crowded = [s for s in sightings if s.crowded]
    if len(crowded) * 2 > len(sightings):
        raise UserError(
            f"Two people are in the clip (at {crowded[0].seconds:.1f} s, for one);"
            " an avatar is made of one person, so cut or film the clip with one."
        )


def _side(faces: Sequence[Face], width: int, height: int) -> int:
    """Side of the square in px, even."""
    full = min(width, height)
    face = float(np.median([f.side * width for f in faces]))
    framed = abs(width - height) <= _NEARLY_SQUARE * max(width, height) and face >= _FRAMED_SHARE * full
    if not framed:
        span_x = _span([f.x * width for f in faces])
        span_y = _span([f.y * height for f in faces])
        full = min(full, round(max(face / FACE_SHARE, span_x + _MARGIN_X * face, span_y + _MARGIN_Y * face)))
    return full - full % 2


def _span(places: Sequence[float]) -> float:
    low, high = np.percentile(places, _RANGE)
    return float(high - low)


def _middle(places: Sequence[float]) -> float:
    return float(np.percentile(places, _RANGE).mean())


def face_px(sightings: Sequence[Sighting], upright_size: tuple[int, int], crop: Crop) -> float:
    """Side of the face box in pixels of the avatar's frame, median over the samples."""
    width, height = upright_size
    sides = [face.side for face in _main_faces(sightings, height / width)]
    return float(np.median(sides)) * upright_size[0] * crop.size / crop.side
