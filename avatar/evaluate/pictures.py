"""Small picture helpers of the report and the preview: error maps, mouth crops, data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

ERROR_FULL_SCALE: Final = 51
"""Mean absolute error, in levels of 255, that is drawn in the brightest colour: errors are amplified five times."""

ERROR_COLOURS: Final = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Evenly spaced stops from no error to full scale; samples of the inferno colour map (matplotlib, CC0)."""

Box = tuple[int, int, int]
"""Left, top and side of a square in pixels of the frame."""


def error_map(image: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Mean absolute error over the channels as a picture; black is none, pale yellow `ERROR_FULL_SCALE` or more."""
    error = np.abs(image.astype(np.int16) - truth).mean(axis=2)
    share = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(ERROR_COLOURS))
    table = np.stack([np.interp(share, stops, channel) for channel in zip(*ERROR_COLOURS, strict=True)], axis=1)
    return np.rint(table).astype(np.uint8)[np.minimum(error * (255 / ERROR_FULL_SCALE), 255).astype(np.uint8)]


def crop_square(image: UInt8[np.ndarray, "H W 3"], box: Box) -> UInt8[np.ndarray, "S S 3"]:
    """The square `box` of the picture; what lies outside repeats the edge pixels."""
    left, top, side = box
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    return image[rows[:, None], columns[None, :]]


def resized(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture scaled so that its longer side has `side` pixels (Lanczos)."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def jpeg_uri(image: UInt8[np.ndarray, "H W 3"], quality: int = 90) -> str:
    """The picture as a ``data:`` address; no chroma subsampling, which would blur lips and error colours."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def css_gradient(colours: Sequence[tuple[int, int, int]] = ERROR_COLOURS) -> str:
    """The error colours as a CSS gradient from left to right."""
    return "linear-gradient(90deg," + ",".join(f"rgb({r},{g},{b})" for r, g, b in colours) + ")"
