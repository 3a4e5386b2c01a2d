"""Preview frames: layout, captions, even sizes, lazy composition."""

from __future__ import annotations

import numpy as np
import pytest

from avatar.evaluate.preview import GROUND, caption_strip, preview_frames, side_by_side


def frame(value: int, height: int = 61, width: int = 63) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_pictures_are_untouched_and_the_size_is_even():
    parts = [frame(40), frame(120), frame(200)]
    picture = side_by_side(parts, ["clip", "tracked", "from speech"])
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0 and picture.dtype == np.uint8
    strip = caption_strip(("clip", "tracked", "from speech"), 63, 61).shape[0]
    for column, part in enumerate(parts):
        left = column * (63 + 2)
        np.testing.assert_array_equal(picture[strip : strip + 61, left : left + 63], part)
    assert tuple(picture[strip + 5, 63]) == GROUND


def test_each_caption_is_drawn_above_its_own_picture():
    strip = caption_strip(("clip", ""), 128, 128)
    ink = np.abs(strip.astype(int) - GROUND).sum(axis=2) > 60
    assert ink[:, :128].sum() > 20 and not ink[:, 128:].any()
    columns = np.flatnonzero(ink.any(axis=0))
    assert abs(columns.mean() - 64) < 4
    long = caption_strip(("a caption far too long for the picture below it", "b"), 40, 40)
    assert long.shape[1] == 40 * 2 + 2


def test_frames_are_composed_one_at_a_time():
    made = []

    def source(value: int):
        for k in range(3):
            made.append(value)
            yield frame(value + k)

    frames = preview_frames({"clip": source(10), "tracked": source(100)})
    assert made == []
    first = next(frames)
    assert made == [10, 100]
    assert len([first, *frames]) == 3


def test_sources_of_different_length_or_size_are_an_error():
    with pytest.raises(ValueError):
        list(preview_frames({"clip": [frame(1)], "tracked": []}))
    with pytest.raises(ValueError, match="captions"):
        side_by_side([frame(1), frame(1, height=60)], ["a", "b"])
