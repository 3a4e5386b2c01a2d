"""Preview frames: several versions of the same moment side by side, each under its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

STRIP_SHARE: Final = 0.085
"""Height of the caption strip over the height of a frame."""
MIN_STRIP_PX: Final = 18
GAP_SHARE: Final = 1 / 128
"""Width of the gap between two frames over the height of a frame."""
GROUND: Final = (20, 23, 27)
INK: Final = (231, 233, 236)


def side_by_side(frames: Sequence[UInt8[np.ndarray, "H W 3"]], captions: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Frames of one size in a row under a strip with their captions.

    Width and height of the result are even, as video encoders want them (one line of ground is added where needed).

    Args:
        frames: pictures of the same size.
        captions: one short line for each; what does not fit above its picture is cut.

    Raises:
        ValueError: no frame, or sizes or numbers that differ.
    """
    if not frames or len(frames) != len(captions) or any(f.shape != frames[0].shape for f in frames):
        raise ValueError(f"{len(captions)} captions for frames of sizes {[f.shape for f in frames]}")
    height, width = frames[0].shape[:2]
    strip = caption_strip(tuple(captions), width, height)
    top = strip.shape[0]
    canvas = np.empty((_even(top + height), _even(strip.shape[1]), 3), np.uint8)
    canvas[:] = GROUND
    canvas[:top, : strip.shape[1]] = strip
    step = width + _gap(height)
    for column, frame in enumerate(frames):
        canvas[top : top + height, column * step : column * step + width] = frame
    return canvas


def preview_frames(sources: Mapping[str, Iterable[np.ndarray]]) -> Iterator[np.ndarray]:
    """Composes the preview one frame at a time.

    Args:
        sources: caption -> its frames in order (uint8 H W 3, all of one size, equally many), left to right.

    Yields:
        uint8 (h w 3) frames for `media.write_video`.

    Raises:
        ValueError: one source ends before another.
    """
    captions = tuple(sources)
    for frames in zip(*sources.values(), strict=True):
        yield side_by_side(frames, captions)


@lru_cache(maxsize=8)
def caption_strip(captions: tuple[str, ...], width: int, height: int) -> UInt8[np.ndarray, "s w 3"]:
    """The strip above frames of `width` x `height` px, drawn with the font that comes with Pillow."""
    strip_height = max(MIN_STRIP_PX, round(height * STRIP_SHARE))
    font = ImageFont.load_default(size=strip_height * 0.55)
    step = width + _gap(height)
    total = step * len(captions) - _gap(height)
    strip = Image.new("RGB", (total, strip_height), GROUND)
    for column, caption in enumerate(captions):
        cell = Image.new("RGB", (width, strip_height), GROUND)
        position = (width / 2, strip_height / 2)
        ImageDraw.Draw(cell).text(position, caption, fill=INK, font=font, anchor="mm")
        strip.paste(cell, (column * step, 0))
    result = np.asarray(strip).copy()
    result.setflags(write=False)
    return result


def _gap(height: int) -> int:
    return max(2, round(height * GAP_SHARE))


def _even(length: int) -> int:
    return length + length % 2
