"""Rotation, mirroring and pixel shape."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from avatar.capture.orient import Orientation, matrix_orientation, square_pixel_size

ALL = [Orientation(*flags) for flags in product((False, True), repeat=3)]


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    return np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], np.int32).tobytes()


@pytest.mark.parametrize(
    "a,b,c,d", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (0, 1, 1, 0)]
)
def test_pixels_go_where_the_matrix_says(a, b, c, d):
    """Every coded pixel (x, y) is shown at (a x + c y, b x + d y), shifted into the picture."""
    coded = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    shown = matrix_orientation(_matrix(a, b, c, d)).upright(coded)
    y, x = np.mgrid[0:3, 0:5]
    column, row = a * x + c * y, b * x + d * y
    expected = np.zeros((np.ptp(row) + 1, np.ptp(column) + 1, 3), np.uint8)
    expected[row - row.min(), column - column.min()] = coded
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("orientation", ALL)
def test_boxes_follow_the_picture(orientation):
    coded = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    upright = orientation.upright(coded)
    width, height = orientation.size(30, 20)
    box = (3, 5, 8, 6)
    left, top, w, h = orientation.coded_box(box, width, height)
    cut = orientation.upright(coded[top : top + h, left : left + w])
    np.testing.assert_array_equal(cut, upright[5:11, 3:11])
    assert orientation.upright_box((left, top, w, h), width, height) == box


def test_a_slightly_slanted_matrix_is_the_nearest_right_angle():
    slanted = np.array([-3000, 65_000, 0, -65_000, -3000, 0, 0, 0, 1 << 30], np.int32).tobytes()
    assert matrix_orientation(slanted) == matrix_orientation(_matrix(0, 1, -1, 0))


def test_square_pixels_never_lose_detail():
    assert square_pixel_size(720, 576, Fraction(16, 15)) == (768, 576)
    assert square_pixel_size(1440, 1080, Fraction(4, 3)) == (1920, 1080)
    assert square_pixel_size(720, 480, Fraction(8, 9)) == (720, 540)
    assert square_pixel_size(640, 480, None) == (640, 480)
