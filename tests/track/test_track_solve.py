"""The joint solve on landmarks made from known cameras, heads, poses and expressions."""

import numpy as np
import pytest

from avatar.geometry import matrix_from_euler, rotvec_from_matrix
from avatar.track.exchange import FACING
from avatar.track.mesh import landmark_noise, mean_head, mirror_points
from avatar.track.prior import landmark_prior
from avatar.track.smooth import adaptive, bridge, whittaker
from avatar.track.solve import Poses, smooth_poses, solve_clip

SIZE = 512


def made_clip(focal: float, frames: int = 40, noise: float = 0.0, seed: int = 0):
    """Landmarks [N, 478, 3] of a turning, talking head and its true poses."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 2 * np.pi, frames)
    angles = np.stack([0.4 * np.sin(time), 0.2 * np.cos(2 * time), 0.1 * np.sin(3 * time)], axis=1)
    rotation = FACING @ matrix_from_euler(angles)
    distance = 30 * focal / SIZE
    translation = np.stack([2 * np.cos(time), 1 + np.sin(time), distance + 2 * np.sin(2 * time)], axis=1)
    weights = np.zeros((frames, 52))
    weights[:, 24] = 0.25 * (1 - np.cos(4 * time))  # jawOpen
    weights[:, 43:45] = 0.3 * (1 + np.sin(time))[:, None]  # smile
    neutral = mean_head() * [1.03, 0.98, 1.0]
    head = neutral + np.tensordot(weights, landmark_prior().astype(np.float64), axes=1)
    camera = head @ np.swapaxes(rotation, 1, 2) + translation[:, None]
    pixels = focal * camera[..., :2] / camera[..., 2:] + SIZE / 2
    scale = focal / translation[:, 2]
    depth = scale[:, None] * (camera[..., 2] - translation[:, None, 2])
    landmarks = np.concatenate([pixels, depth[..., None]], axis=2)
    landmarks[..., :2] += noise * landmark_noise()[:, None] * rng.normal(size=pixels.shape)
    return landmarks, rotation, translation


def turn_errors(found, true):
    """Rotation errors in degrees after the constant difference between the two head frames."""
    difference = np.swapaxes(found, 1, 2) @ true
    vectors = rotvec_from_matrix(difference)
    return np.degrees(vectors - vectors.mean(0))


@pytest.mark.parametrize("focal", [700.0, 1100.0, 1800.0])
def test_pose_and_focal_length_come_back(focal):
    landmarks, rotation, translation = made_clip(focal)
    solution = solve_clip(landmarks, SIZE, landmark_prior())
    # weakly observable, and held by a prior with a spread of a factor of 1.4
    assert 0.75 < solution.view.focal / focal < 1.35
    errors = turn_errors(solution.poses.rotation, rotation)
    assert np.sqrt((errors**2).mean()) < 0.4
    relative = solution.poses.translation[:, 2] / translation[:, 2]
    assert relative.std() < 0.01


def test_outliers_do_not_turn_the_head():
    landmarks, rotation, _ = made_clip(1100.0, noise=0.5)
    clean = turn_errors(solve_clip(landmarks, SIZE, landmark_prior()).poses.rotation, rotation)
    rng = np.random.default_rng(1)
    bad = landmarks.copy()
    bad[:, rng.choice(478, 60, replace=False), :2] += 40
    spoiled = turn_errors(solve_clip(bad, SIZE, landmark_prior()).poses.rotation, rotation)
    assert np.sqrt((spoiled**2).mean()) < np.sqrt((clean**2).mean()) + 0.2


def test_smoothing_has_no_lag_and_bridges_gaps():
    times = np.arange(100) / 25
    slow = np.sin(2 * np.pi * 0.7 * times)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.1, slow.shape)
    smooth = whittaker(slow + noise, times, 4.0)
    assert np.abs(smooth - slow)[5:-5].std() < 0.06
    late = [float(((smooth[5:-5] - np.roll(slow, k, axis=0)[5:-5]) ** 2).mean()) for k in (-1, 0, 1)]
    assert np.argmin(late) == 1
    weights = np.ones(100)
    weights[40:45] = 0
    holed = slow.copy()
    holed[40:45] = 99
    assert np.abs(whittaker(holed, times, 4.0, weights) - slow)[35:50].max() < 0.1


def test_smoothing_halves_at_its_cutoff():
    times = np.arange(500) / 25
    wave = np.sin(2 * np.pi * 3 * times)[:, None]
    gain = whittaker(wave, times, 3.0)[100:400].std() / wave[100:400].std()
    assert gain == pytest.approx(0.5, abs=0.05)  # discrete second differences: 0.49


def test_smoothing_keeps_a_line_at_uneven_times():
    times = np.sort(np.random.default_rng(0).uniform(0, 3, 60))
    line = (2 * times - 1)[:, None]
    np.testing.assert_allclose(whittaker(line, times, 2.0), line, atol=1e-6)


def test_bridge_interpolates_and_holds_the_ends():
    valid = np.array([False, True, False, True, False])
    values = np.array([[9.0], [1.0], [9.0], [3.0], [9.0]])
    np.testing.assert_allclose(bridge(values, np.arange(5.0), valid)[:, 0], [1, 1, 2, 3, 3])


def test_smooth_poses_bridges_invalid_frames():
    _, rotation, translation = made_clip(1000.0)
    valid = np.ones(40, bool)
    valid[10:13] = False
    broken = rotation.copy()
    broken[10:13] = np.eye(3)
    poses = smooth_poses(Poses(broken, translation, np.zeros((40, 0))), np.arange(40) / 25, valid, 10.0, 10.0)
    errors = np.degrees(rotvec_from_matrix(np.swapaxes(poses.rotation, 1, 2) @ rotation))
    assert np.abs(errors[8:15]).max() < 4


def test_a_head_that_left_stays_where_it_was_last_seen():
    times, valid = np.arange(100) / 25, np.ones(100, bool)
    valid[:10], valid[40:60], valid[90:] = False, False, False
    path = np.stack([10 * times, np.zeros(100), np.full(100, 60.0)], axis=1)  # still moving where it is lost
    path[60:, 0] = 20.0 - 5 * times[60:]
    rotation = np.repeat(np.eye(3)[None], 100, axis=0)
    found = smooth_poses(
        Poses(rotation, np.where(valid[:, None], path, 500.0), np.zeros((100, 0))), times, valid, 7.0, 2.0
    )
    x = found.translation[:, 0]
    np.testing.assert_allclose(x[:10], x[10])
    np.testing.assert_allclose(x[90:], x[89])
    np.testing.assert_allclose(x[39:61], np.linspace(x[39], x[60], 22), atol=1e-9)
    np.testing.assert_allclose(found.translation[:, 2], 60.0, atol=1e-6)


def test_prior_is_symmetric_and_opens_the_mouth():
    prior = landmark_prior()
    mirrored = prior[44][mirror_points()] * [-1, 1, 1]
    np.testing.assert_allclose(prior[43], mirrored, atol=2e-3)  # stored in half precision
    assert (
        prior[24, 14, 1] < -1.0 < 0.3 > abs(prior[24, 13, 1])
    )  # jawOpen: lower lip down by more than a cm, upper still
    assert prior[8, 386, 1] < -0.3 and abs(prior[8, 159, 1]) < 0.1  # eyeBlinkLeft: the person's left upper lid only


def test_adaptive_smoothing_stills_a_still_head_and_keeps_motion():
    rng = np.random.default_rng(0)
    times = np.arange(300) / 25
    noise = rng.normal(0, 0.1, (300, 3))
    moving = ((times > 4) & (times < 8))[:, None] * np.sin(2 * np.pi * 1.5 * times)[:, None] * np.ones(3)
    light, adapted = whittaker(noise + moving, times, 7.0), adaptive(noise + moving, times, 7.0, 2.0)

    def jitter(values: np.ndarray) -> float:
        return float(np.sqrt((np.diff(values, axis=0) ** 2).mean()))

    still = slice(0, 80)
    assert jitter(adapted[still]) < 0.4 * jitter(light[still])
    inside = slice(110, 190)
    errors = [np.sqrt(((x - moving)[inside] ** 2).mean()) for x in (light, adapted)]
    assert errors[1] < 1.1 * errors[0]


def test_adaptive_smoothing_bridges_frames_without_weight():
    times = np.arange(60) / 25
    line = np.stack([times, -2 * times], axis=1)
    weights = np.ones(60)
    weights[20:26] = 0
    broken = line + 0
    broken[20:26] = 50.0
    bridged = adaptive(bridge(broken, times, weights > 0), times, 7.0, 2.0, weights)
    np.testing.assert_allclose(bridged, line, atol=1e-6)
