"""The rigid head: its bundle adjustment on made-up points, and templates followed in drawn pictures."""

import numpy as np
import pytest

from avatar.geometry import matrix_from_rotvec, rotvec_from_matrix
from avatar.track.bundle import STEPS, Bundle, Points, Sightings, locate
from avatar.track.mesh import mean_head
from avatar.track.rigid import PIVOT_CM, PLACE_SHARE, align_head
from avatar.track.solve import Head, Poses, View, pose_slope

VIEW = View(1200.0, 256.0)
POSE_SIGMA = np.array([0.1, 0.1, 0.06, 1.2, 1.2, 20.0])


def turns(count: int, rng: np.random.Generator):
    """Head poses of a lively speaker, facing the camera."""
    facing = np.diag([1.0, -1.0, -1.0])
    rotation = matrix_from_rotvec(rng.normal(0, [0.12, 0.2, 0.06], (count, 3))) @ facing
    return rotation, np.array([0.0, 0.0, 90.0]) + rng.normal(0, [1.0, 1.0, 1.5], (count, 3))


def seen(points, rotation, translation, view: View = VIEW):
    """Pixels of points [n, M, 3] under poses."""
    camera = points @ np.swapaxes(rotation, 1, 2) + translation[:, None]
    return view.focal * camera[..., :2] / camera[..., 2:] + view.centre


def made_head(rng: np.random.Generator, count: int = 70):
    """Points around a head, half skin in front and half hair and ears behind."""
    skin = np.arange(count) < count // 2
    depth = np.where(skin, rng.uniform(5, 10, count), rng.uniform(-3, 4, count))
    return np.stack([rng.uniform(-7, 7, count), rng.uniform(-6, 10, count), depth], axis=1), skin


def turn_errors(found, true):
    """Degrees between rotations, the common turn of the head frame taken out. [n]"""
    apart = rotvec_from_matrix(np.swapaxes(true, 1, 2) @ found)
    return np.degrees(np.linalg.norm(apart - apart.mean(axis=0), axis=1))


def test_slope_of_a_pixel_by_the_pose_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    points, rotation, translation = made_head(rng, 5)[0], *(a[0] for a in turns(1, rng))
    slope = pose_slope(points @ rotation.T, points @ rotation.T + translation, VIEW.focal)
    for k in range(6):
        step = 1e-5 * np.eye(6)[k]
        pixels = [
            seen(points[None], (matrix_from_rotvec(s * step[:3]) @ rotation)[None], (translation + s * step[3:])[None])
            for s in (1, -1)
        ]
        np.testing.assert_allclose(slope[..., k], (pixels[0] - pixels[1])[0] / 2e-5, rtol=1e-6, atol=1e-5)


def test_bundle_tells_nodding_from_skin_that_moves_and_finds_the_focal_length():
    rng = np.random.default_rng(1)
    frames = 60
    rotation, translation = turns(frames, rng)
    home, skin = made_head(rng)
    mode = rng.normal(0, 1, (frames, 1))
    lift = np.where(skin[:, None], [0.0, 0.12, 0.0], 0.0)  # expression lifts all skin: it looks like nodding
    pixels = seen(home + mode[..., None] * lift, rotation, translation) + rng.normal(0, 0.15, (frames, len(home), 2))
    pixels[:, ::9] += rng.normal(0, 25, pixels[:, ::9].shape)  # points on something else
    start = matrix_from_rotvec(rng.normal(0, 0.008, (frames, 3)) + mode * [0.01, 0, 0]) @ rotation
    points = Points(
        home + rng.normal(0, np.where(skin, 0.2, 1.5)[:, None], home.shape),
        np.where(skin, 0.4, 3.0),
        np.zeros((len(home), 1, 3)),
        np.where(skin, 0.3, 0.02),
        np.where(skin, 0.8, 0.25),
    )
    sightings = Sightings(np.arange(frames), pixels, np.ones(pixels.shape[:2], bool))
    shorter = View(0.8 * VIEW.focal, VIEW.centre)
    bundle = Bundle([points], [sightings], mode, start, translation * [1, 1, 0.8], shorter, POSE_SIGMA)
    for _ in range(STEPS):
        bundle.improve()
    before, after = turn_errors(start, rotation), turn_errors(bundle.rotation, rotation)
    assert np.sqrt((before**2).mean()) > 0.9
    assert np.sqrt((after**2).mean()) < 0.15  # 0.08 when written
    assert bundle.view.focal == pytest.approx(VIEW.focal, rel=0.1)
    moved = bundle.points[0].moves[:, 0, 1]
    kept = np.arange(len(home)) % 9 != 0
    assert np.median(moved[skin & kept]) == pytest.approx(0.12, abs=0.03)
    rating = bundle.points[0].scatter
    assert rating[~kept].min() > 5 * np.median(rating[kept])  # points on something else lose their say


def test_locate_finds_a_pose_among_many_wrong_points_and_stays_without_any():
    rng = np.random.default_rng(2)
    rotation, translation = turns(3, rng)
    home = np.repeat(made_head(rng)[0][None], 3, axis=0)
    pixels = seen(home, rotation, translation)
    pixels[:, ::4] += 15
    start = (
        matrix_from_rotvec(np.array([[0.02, -0.015, 0.01]] * 3)) @ rotation,
        translation + np.array([0.2, -0.1, 0.5]),
    )
    sigma, scatter = np.array([0.035, 0.035, 0.02, 0.4, 0.4, 1.5]), np.full(home.shape[1], 0.3)
    given = np.ones(home.shape[:2], bool)
    given[2] = False
    found, place = locate(home, pixels, given, scatter, *start, VIEW, sigma)
    assert np.degrees(np.abs(rotvec_from_matrix(found @ np.swapaxes(rotation, 1, 2)))[:2]).max() < 0.02
    assert np.abs(place - translation)[:2].max() < 0.05
    np.testing.assert_allclose(found[2], start[0][2], atol=1e-12)  # nothing seen
    far = locate(home, pixels + 4000, given, scatter, *start, VIEW, sigma)
    np.testing.assert_allclose(far[0], start[0], atol=1e-3)


def test_pictures_without_any_grain_leave_the_poses_as_they_came():
    pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    rotation, translation = turns(14, rng)
    poses = Poses(rotation, translation, rng.normal(0, 1, (14, 2)))
    head = Head(mean_head(), rng.normal(0, 0.05, (2, 478, 3)), np.zeros(2), np.ones(2))
    flat, person = np.full((512, 512, 3), 128, np.uint8), np.full((256, 256), 255, np.uint8)
    found, view = align_head(lambda i: flat, lambda i: person, head, VIEW, poses)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(found.translation, translation, atol=1e-6)
    assert view.focal == pytest.approx(VIEW.focal, rel=1e-6)


def test_points_that_hardly_steady_the_head_turn_it_and_share_the_say_in_its_place(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(4)
    rotation, translation = turns(14, rng)
    poses = Poses(rotation, translation, rng.normal(0, 1, (14, 2)))
    head = Head(mean_head(), rng.normal(0, 0.05, (2, 478, 3)), np.zeros(2), np.ones(2))
    grain = cv2.GaussianBlur(rng.integers(0, 255, (512, 512, 3)).astype(np.uint8), (0, 0), 1.5)
    person = np.full((256, 256), 255, np.uint8)

    def tried(shaking: float):
        """Poses and camera where the points shake the head so much, of 1 before."""
        monkeypatch.setattr("avatar.track.rigid._shake", lambda turned: 1.0 if turned is rotation else shaking)
        return align_head(lambda i: grain, lambda i: person, head, VIEW, poses)

    def seen(poses, view):
        return view.project(poses.rotation @ PIVOT_CM + poses.translation)

    firm, own = tried(0.7)
    assert abs(own.focal - VIEW.focal) > 0.5
    assert np.abs(rotvec_from_matrix(firm.rotation @ np.swapaxes(rotation, 1, 2))).max() > 1e-4
    loose, same = tried(1.1)
    assert same.focal == own.focal
    np.testing.assert_array_equal(loose.rotation, firm.rotation)
    depth = [
        (p.rotation @ PIVOT_CM + p.translation)[:, 2] / v.focal for p, v in ((poses, VIEW), (loose, own), (firm, own))
    ]
    np.testing.assert_allclose(depth[1], (1 - PLACE_SHARE) * depth[0] + PLACE_SHARE * depth[2], atol=1e-9)
    between = (1 - PLACE_SHARE) * seen(poses, VIEW) + PLACE_SHARE * seen(firm, own)
    assert np.abs(between - seen(firm, own)).max() > 0.05
    np.testing.assert_allclose(seen(loose, own), between, atol=0.02)
    kept, view = tried(1.6)
    assert view is VIEW and kept is poses
