"""The built-in coefficient solver on landmarks made with the landmark prior."""

import numpy as np
import pytest

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES
from avatar.geometry import matrix_from_euler
from avatar.track.coefficients import frontal, solve_coefficients, steady_coefficients, upright
from avatar.track.mesh import DATA, mean_head, mirror_points
from avatar.track.prior import landmark_prior


def seen(weights: dict[str, float], yaw: float = 0.0, roll: float = 0.0, scale: float = 20.0) -> np.ndarray:
    """Landmarks [1, 478, 3] px of the mean head under an expression, from afar."""
    head = mean_head() + sum(w * landmark_prior()[BLENDSHAPE_INDEX[n]] for n, w in weights.items())
    turned = head @ matrix_from_euler(np.array([yaw, 0.0, roll])).T
    return (turned * [scale, -scale, -scale] + [256, 256, 0])[None]


@pytest.mark.parametrize(
    "name", ["jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "mouthPucker", "browInnerUp"]
)
def test_a_coefficient_rises_with_its_own_motion(name):
    values = [solve_coefficients(seen({name: w}))[0, BLENDSHAPE_INDEX[name]] for w in (0.0, 0.5, 0.9)]
    assert values[2] > values[0] + 0.15
    assert values[2] >= values[1] >= values[0] - 0.02


def test_left_is_the_persons_left():
    out = solve_coefficients(seen({"eyeBlinkLeft": 0.9}))[0]
    assert out[BLENDSHAPE_INDEX["eyeBlinkLeft"]] > out[BLENDSHAPE_INDEX["eyeBlinkRight"]] + 0.2


def test_place_size_and_roll_do_not_matter():
    one = seen({"jawOpen": 0.5})
    other = seen({"jawOpen": 0.5}, roll=0.4, scale=7.0) + np.array([30, -20, 0])
    np.testing.assert_allclose(solve_coefficients(other), solve_coefficients(one), atol=0.02)
    np.testing.assert_allclose(upright(other, other), upright(one, one), atol=1e-6)


def test_frontal_undoes_the_pose():
    turned = seen({}, yaw=0.5, roll=0.2)
    np.testing.assert_allclose(frontal(turned)[0], mean_head(), atol=1e-6)


def test_output_range_shape_and_unobserved():
    rng = np.random.default_rng(0)
    out = solve_coefficients(np.concatenate([seen({})] * 4) + rng.normal(0, 3, (4, 478, 3)))
    assert out.shape == (4, len(BLENDSHAPES)) and out.dtype == np.float32
    assert out.min() >= 0 and out.max() <= 1
    assert (out[:, BLENDSHAPE_INDEX["tongueOut"]] == 0).all()


def test_shipped_files_are_small():
    assert sum(f.stat().st_size for f in DATA.glob("*.safetensors")) < 1_000_000


def test_mirror_points_are_an_involution():
    mirror = mirror_points()
    assert (mirror[mirror] == np.arange(478)).all() and mirror[33] == 263 and mirror[468] == 473


def test_smoothing_keeps_blinks_and_closures_and_bridges():
    times = np.arange(60) / 25
    raw = np.full((60, 52), 0.05, np.float32)
    blink, jaw = BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["jawOpen"]
    raw[30:33, [blink, BLENDSHAPE_INDEX["eyeBlinkRight"]]] = np.array([0.5, 0.9, 0.5])[:, None]
    raw[:, jaw] = 0.4
    raw[44:47, jaw] = 0.02
    valid = np.ones(60, bool)
    valid[10:14] = False
    raw[10:14] = 1.0
    smooth = steady_coefficients(raw, times, valid)
    assert smooth[31, blink] > 0.8
    assert smooth[45, jaw] < 0.06
    assert np.abs(smooth[10:14, blink] - 0.05).max() < 0.05
