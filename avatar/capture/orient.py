"""How a picture is stored and how it is meant to be seen: rotation, mirroring and pixel shape.

"Coded" is the picture as the decoder gives it, "upright" the one to be shown, with square pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """Takes a coded picture to its upright one: transpose first, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def upright(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
        """The picture as it is meant to be seen (a view)."""
        picture = picture.transpose(1, 0, 2) if self.transpose else picture
        return picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after (or, it is the same, before) the change of orientation."""
        return (height, width) if self.transpose else (width, height)

    def coded_box(self, box: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
        """Where (left, top, width, height) of the upright `width` x `height` picture lies before orientation."""
        left, top, w, h = box
        left = width - left - w if self.mirror_x else left
        top = height - top - h if self.mirror_y else top
        return (top, left, h, w) if self.transpose else (left, top, w, h)

    def upright_box(self, box: tuple[int, int, int, int], width: int, height: int) -> tuple[int, int, int, int]:
        """Inverse of `coded_box`; `width` and `height` are still those of the upright picture."""
        left, top, w, h = box
        left, top, w, h = (top, left, h, w) if self.transpose else (left, top, w, h)
        left = width - left - w if self.mirror_x else left
        return left, height - top - h if self.mirror_y else top, w, h


def frame_orientation(frame: Any) -> Orientation:
    """Orientation of a decoded PyAV frame from its display matrix; the nearest right angle."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return matrix_orientation(bytes(matrix)) if matrix is not None else Orientation()


def matrix_orientation(display_matrix: bytes) -> Orientation:
    """Orientation from a display matrix: nine int32, upper two rows 16.16 fixed point (ISO/IEC 14496-12, 8.3.2).

    A coded pixel (x, y) is shown at (a x + c y, b x + d y), with the matrix stored as a b u c d v x y w."""
    if len(display_matrix) < 36:
        return Orientation()
    a, b, _, c, d = np.frombuffer(display_matrix, dtype=np.int32, count=5).astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, mirror_x=bool(a < 0), mirror_y=bool(d < 0))
    return Orientation(True, mirror_x=bool(c < 0), mirror_y=bool(b < 0))


def square_pixel_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Size with square pixels of a coded picture whose pixels are `pixel_aspect` times as wide as high.

    The side that is too short is stretched, so that no detail is lost."""
    if not pixel_aspect or pixel_aspect <= 0:
        return width, height
    if pixel_aspect >= 1:
        return max(1, round(width * pixel_aspect)), height
    return width, max(1, round(height / pixel_aspect))
