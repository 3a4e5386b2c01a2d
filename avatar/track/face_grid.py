"""The face as a small picture that follows the head: brightness and redness at fixed places on the neutral head.

A regular grid as seen from the front, laid over the neutral head, mouth and eyes included. Carried by the head's pose
alone, so that what expression moves changes the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from avatar.track.mesh import SKIN_POINTS
from avatar.track.solve import View

ROWS = 52
"""Grid points over the height of the face, about 0.35 cm apart."""
PIXEL_CM = 0.1
"""Size of a pixel in which frames are kept for the grid, where the frame has as many."""
SIGMA_CM = 0.1
"""Blur before the grid looks: finer detail changes too much with a motion of the lips to be linear in it."""
LIGHT_CM = 0.9
"""Brightness is compared with its mean over about this distance: what is wider is light and shade."""
REDNESS = 0.7
"""Weight of redness (red minus green, which tells lips from skin and teeth) beside brightness."""
MARGIN_CM = 1.5
"""Skin around the face that is kept along, for heads that are moved a little."""


@dataclass(frozen=True)
class FaceGrid:
    """Points in head space [M, 3] cm and their outward normals [M, 3]; which cells of the rectangle [h, w] they fill,
    row by row; their distance from each other in cm."""

    points: np.ndarray
    normals: np.ndarray
    inside: np.ndarray
    spacing: float

    @classmethod
    def over(cls, neutral: Float[np.ndarray, "478 3"]) -> FaceGrid:
        """The grid over a neutral head."""
        from scipy.interpolate import LinearNDInterpolator

        skin = neutral[:SKIN_POINTS].astype(np.float64)
        low, high = skin[:, :2].min(axis=0), skin[:, :2].max(axis=0)
        spacing = float(high[1] - low[1]) / ROWS
        columns, rows = (np.arange(a + spacing / 2, b, spacing) for a, b in zip(low, high, strict=True))
        x, y = np.meshgrid(columns, rows)
        z = LinearNDInterpolator(skin[:, :2], skin[:, 2])(x, y)
        inside = np.isfinite(z)
        filled = np.where(inside, z, np.nanmin(z))
        slope_y, slope_x = np.gradient(filled, spacing)
        normals = np.stack([-slope_x, -slope_y, np.ones_like(x)], axis=-1)[inside]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return cls(np.stack([x, y, filled], axis=-1)[inside], normals, inside, spacing)

    def near(self, places: Float[np.ndarray, "P 3"], reach: float) -> Bool[np.ndarray, " M"]:
        """Which points lie, as seen from the front, within `reach` cm of one of some places."""
        return np.linalg.norm(self.points[:, None, :2] - places[None, :, :2], axis=-1).min(axis=1) < reach

    def slopes(self, values: Float[np.ndarray, "D M"]) -> tuple[Float[np.ndarray, "D M"], Float[np.ndarray, "D M"]]:
        """Changes of values on the grid per cm to the right and down the face; 0 at its rim."""
        import cv2

        full = np.zeros((len(values), *self.inside.shape), values.dtype)
        full[:, self.inside] = values
        down, right = np.gradient(full, self.spacing, axis=(1, 2))
        inner = cv2.erode(self.inside.astype(np.uint8), np.ones((3, 3)), borderValue=(0.0,)) > 0
        return (right * inner)[:, self.inside], (down * inner)[:, self.inside]


@dataclass(frozen=True)
class Portrait:
    """The part of a frame around the face, blurred a little, RGB [h, w, 3]; pixel = frame pixel * scale - corner."""

    image: UInt8[np.ndarray, "h w 3"]
    scale: float
    corner: np.ndarray


def portrait(frame: UInt8[np.ndarray, "H W 3"], grid: FaceGrid, view: View, rotation, translation) -> Portrait:
    """What the grid needs of a frame, whose head has about the given pose."""
    import cv2

    pixels = view.project(grid.points @ rotation.T + translation)
    pixels_per_cm = view.focal / float(translation[2])
    margin, size = MARGIN_CM * pixels_per_cm, np.array(frame.shape[1::-1])
    left, top = np.clip(np.floor(pixels.min(axis=0) - margin), 0, size - 8).astype(int)
    right, bottom = np.clip(np.ceil(pixels.max(axis=0) + margin), 8, size).astype(int)
    part = np.ascontiguousarray(frame[top:bottom, left:right])
    scale = min(1.0, 1 / (PIXEL_CM * pixels_per_cm))
    if scale < 1:
        shape = tuple(max(8, round(side * scale)) for side in part.shape[1::-1])
        part = cv2.resize(part, shape, interpolation=cv2.INTER_AREA)
    blur = max(0.6, SIGMA_CM * pixels_per_cm * scale)
    return Portrait(cv2.GaussianBlur(part, (0, 0), blur), scale, np.array([left, top]) * scale)


def look(face: Portrait, grid: FaceGrid, view: View, rotation, translation) -> Float32[np.ndarray, "2 M"]:
    """Brightness (its slow changes over the face taken out) and redness at the grid's points, grey levels."""
    import cv2

    where = view.project(grid.points @ rotation.T + translation) * face.scale - face.corner - 0.5
    where = where.astype(np.float32)[None]
    red, green, blue = cv2.remap(
        face.image.astype(np.float32), where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )[0].T
    full = np.zeros((2, *grid.inside.shape), np.float32)
    full[:, grid.inside] = 0.299 * red + 0.587 * green + 0.114 * blue, np.ones_like(red)
    wide, cover = (cv2.GaussianBlur(part, (0, 0), LIGHT_CM / grid.spacing) for part in full)
    brightness = full[0] - wide / np.maximum(cover, 1e-3)
    return np.stack([brightness[grid.inside], REDNESS * (red - green)])
