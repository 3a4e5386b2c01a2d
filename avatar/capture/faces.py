"""Finds faces in sample pictures with MediaPipe's two face detectors, whose models are inside its wheel.

Boxes reach from the brows to the chin and are square (BlazeFace, Bazarevsky et al. 2019, arXiv:1907.05047).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
from jaxtyping import UInt8

from avatar.errors import UserError
from avatar.quiet import quiet_native_stderr

_MIN_SCORE = 0.5
_SAME_FACE_DISTANCE = 0.5
"""Two boxes whose centres are closer than this share of the larger one are one face seen twice."""
_RIVAL_SIZE, _RIVAL_SCORE = 0.5, 0.6
"""A second face counts as a second person when it is at least this large against the first, and this certain."""
_TILES = 3
"""Squares laid along the long side of a wide picture when a face is too small to be found in the whole."""


@dataclass(frozen=True)
class Face:
    """A face box: centre and side in units of the picture's width (x, side) and height (y); detector's score."""

    x: float
    y: float
    side: float
    score: float


@dataclass(frozen=True)
class Sighting:
    """What one sample picture shows: its faces, largest first, and how bright the largest one is (0..255)."""

    seconds: float
    faces: tuple[Face, ...]
    brightness: float

    @property
    def crowded(self) -> bool:
        """Whether a second face of comparable size is in the picture."""
        return len(self.faces) > 1 and self.faces[1].side >= _RIVAL_SIZE * self.faces[0].side


def find_faces(samples: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]]) -> list[Sighting]:
    """Looks for faces in (seconds, RGB picture) pairs; pictures may be of any size.

    Raises UserError where MediaPipe is not installed."""
    with _detectors() as detectors:
        return [_sight(seconds, picture, detectors) for seconds, picture in samples]


def _sight(seconds: float, picture: np.ndarray, detectors: tuple[Any, ...]) -> Sighting:
    height, width = picture.shape[:2]
    faces = _detect(picture, detectors)
    if not faces:
        for left, top, side in _tiles(width, height):
            tile = np.ascontiguousarray(picture[top : top + side, left : left + side])
            found = _detect(tile, detectors)
            faces += [
                Face((left + f.x * side) / width, (top + f.y * side) / height, f.side * side / width, f.score)
                for f in found
            ]
        faces = _distinct(faces, height / width)
    return Sighting(seconds, tuple(faces), _brightness(picture, faces[0]) if faces else 0.0)


def _detect(picture: np.ndarray, detectors: tuple[Any, ...]) -> list[Face]:
    faces = []
    for detector in detectors:
        for found in detector.process(picture).detections or ():
            box = found.location_data.relative_bounding_box
            faces.append(Face(box.xmin + box.width / 2, box.ymin + box.height / 2, box.width, found.score[0]))
    return _distinct(faces, picture.shape[0] / picture.shape[1])


def _distinct(faces: list[Face], aspect: float) -> list[Face]:
    """One box per face, largest first; of doubles the one that came first (the short-range detector's) stays.

    `aspect` is the picture's height over its width."""
    kept: list[Face] = []
    for face in faces:
        if not any(_same(face, other, aspect) for other in kept):
            kept.append(face)
    kept.sort(key=lambda face: -face.side)
    return [f for i, f in enumerate(kept) if i == 0 or f.score >= _RIVAL_SCORE]


def _same(face: Face, other: Face, aspect: float) -> bool:
    """Whether two boxes are one face."""
    return hypot(face.x - other.x, (face.y - other.y) * aspect) < _SAME_FACE_DISTANCE * max(face.side, other.side)


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Overlapping squares (left, top, side) along the longer side, each as large as the shorter one."""
    side = min(width, height)
    for i in range(_TILES):
        along = round((max(width, height) - side) * i / (_TILES - 1))
        yield (along, 0, side) if width >= height else (0, along, side)


def _brightness(picture: np.ndarray, face: Face) -> float:
    """Mean luma of the face box."""
    height, width = picture.shape[:2]
    half = face.side * width / 2
    x, y = face.x * width, face.y * height
    box = picture[max(0, int(y - half)) : int(y + half) + 1, max(0, int(x - half)) : int(x + half) + 1]
    return float((box @ np.array([0.2126, 0.7152, 0.0722])).mean()) if box.size else 0.0


@contextmanager
def _detectors() -> Iterator[tuple[Any, ...]]:
    """MediaPipe's short-range (selfie) and full-range (across a room) detectors."""
    with quiet_native_stderr():
        try:
            from mediapipe.python.solutions.face_detection import FaceDetection
        except ImportError as error:
            raise UserError(
                "Reading a clip needs MediaPipe to find the face: run `pip install 'mediapipe<=0.10.21'`."
            ) from error
        with (
            FaceDetection(model_selection=0, min_detection_confidence=_MIN_SCORE) as short_range,
            FaceDetection(model_selection=1, min_detection_confidence=_MIN_SCORE) as full_range,
        ):
            yield short_range, full_range
