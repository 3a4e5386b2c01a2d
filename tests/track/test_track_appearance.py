"""Pose and expression from how the face looks: on a painted flat face whose true motion is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.geometry import matrix_from_rotvec
from avatar.track import appearance
from avatar.track.appearance import LEAST_FRAMES, refine_by_appearance
from avatar.track.face_grid import FaceGrid, look, portrait
from avatar.track.mesh import LEFT_EYE, OUTER_LIPS, RIGHT_EYE, mean_head
from avatar.track.solve import Poses, View

SIZE, FRAMES = 128, 150
VIEW = View(260.0, SIZE / 2)
DISTANCE = 50.0
JAW, BLINK = BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["eyeBlinkLeft"]


@pytest.fixture(scope="module")
def neutral():
    """The mean head pressed flat: what is painted on it moves as a plane does."""
    head = mean_head().copy()
    head[:, 2] = 5.0
    return head


def _blobs(rng, count, centre, reach, width):
    return [
        (centre + rng.uniform(-reach, reach, 2), rng.uniform(0.6, 1.2) * width, rng.uniform(-60, 60, 3))
        for _ in range(count)
    ]


class _Painting:
    """A face of soft spots; some around the mouth and an eye come and go with two coefficients."""

    def __init__(self, neutral) -> None:
        rng = np.random.default_rng(3)
        middle = neutral[:, :2].mean(axis=0)
        self._still = _blobs(rng, 60, middle, 7.0, 1.0)
        self._parts = [
            _blobs(rng, 8, neutral[list(OUTER_LIPS), :2].mean(axis=0), 1.5, 0.7),
            _blobs(rng, 6, neutral[list(LEFT_EYE), :2].mean(axis=0), 0.7, 0.5),
        ]
        self._depth = float(neutral[0, 2])

    def __call__(self, rotation, translation, amounts, rng):
        """The frame: each pixel's line of sight cut with the face's plane."""
        y, x = (np.mgrid[:SIZE, :SIZE] + 0.5).astype(np.float64)
        rays = np.stack([(x - VIEW.centre) / VIEW.focal, (y - VIEW.centre) / VIEW.focal, np.ones_like(x)], axis=-1)
        rays, origin = rays @ rotation, -translation @ rotation
        places = (origin + rays * ((self._depth - origin[2]) / rays[..., 2])[..., None])[..., :2]
        picture = np.full((SIZE, SIZE, 3), 120.0)
        for spots, amount in ((self._still, 1.0), *zip(self._parts, amounts, strict=True)):
            for centre, width, colour in spots:
                near = np.exp(-0.5 * ((places - centre) ** 2).sum(-1) / width**2)
                picture += amount * near[..., None] * colour
        return (picture + rng.normal(0, 1.5, picture.shape)).clip(0, 255).astype(np.uint8)


def _motion(rng, count, sigma):
    """Smooth random motion of unit spread. [count, D]"""
    steps = rng.normal(size=(count + 40, len(sigma)))
    kernel = np.hanning(21)
    smooth = np.stack([np.convolve(column, kernel, "valid")[:count] for column in steps.T], axis=1)
    return (smooth - smooth.mean(0)) / smooth.std(0) * np.asarray(sigma)


@pytest.fixture(scope="module")
def clip(neutral):
    """True poses and coefficients, what a tracker made of them, and the frames."""
    rng = np.random.default_rng(7)
    motion = _motion(rng, FRAMES, [0.03, 0.05, 0.03, 0.5, 0.4, 0.8])
    rotation = matrix_from_rotvec(motion[:, :3]) @ np.diag([1.0, -1.0, -1.0])  # the head looks at the camera
    true = Poses(rotation, motion[:, 3:] + [0, 0, DISTANCE], np.zeros((FRAMES, 0)))
    coefficients = np.zeros((FRAMES, 52))
    coefficients[:, [JAW, BLINK]] = 0.5 + _motion(rng, FRAMES, [0.2, 0.2])
    painting = _Painting(neutral)
    frames = [
        painting(true.rotation[i], true.translation[i], coefficients[i, [JAW, BLINK]], rng) for i in range(FRAMES)
    ]
    turned = matrix_from_rotvec(rng.normal(0, np.radians(0.15), (FRAMES, 3))) @ true.rotation
    tracked = replace(
        true, rotation=turned, translation=true.translation + rng.normal(0, [0.02, 0.02, 0.1], (FRAMES, 3))
    )
    noisy = coefficients.copy()
    noisy[:, [JAW, BLINK]] += rng.normal(0, 0.06, (FRAMES, 2))
    return true, coefficients, tracked, noisy.clip(0, 1), frames


def _error(poses: Poses, true: Poses, frames=range(FRAMES)) -> float:
    """Mean distance in pixels between where points of the face are seen and where they are."""
    points = mean_head()[[1, 10, 152, 234, 454]]
    seen = [[VIEW.project(points @ p.rotation[i].T + p.translation[i]) for i in frames] for p in (poses, true)]
    return float(np.linalg.norm(np.subtract(*seen), axis=-1).mean())


def test_pose_and_expression_come_nearer_to_the_truth(clip, neutral):
    true, coefficients, tracked, noisy, frames = clip
    calls: list[int] = []
    poses, refined = refine_by_appearance(lambda i: frames[i], neutral, VIEW, tracked, noisy, lambda: calls.append(1))
    assert len(calls) == FRAMES
    assert _error(poses, true) < 0.6 * _error(tracked, true)
    for k in (JAW, BLINK):
        assert (refined[:, k] - coefficients[:, k]).std() < 0.6 * (noisy[:, k] - coefficients[:, k]).std()
    np.testing.assert_array_equal(np.delete(refined, [JAW, BLINK], axis=1), np.delete(noisy, [JAW, BLINK], axis=1))
    assert refined.min() >= 0 and refined.max() <= 1


def test_frames_that_nothing_was_learned_from_are_judged_alike(clip, neutral, monkeypatch):
    true, coefficients, tracked, noisy, frames = clip
    monkeypatch.setattr(appearance, "LEARNED_FRAMES", FRAMES // 2)
    poses, refined = refine_by_appearance(lambda i: frames[i], neutral, VIEW, tracked, noisy)
    learned = np.unique(np.linspace(0, FRAMES - 1, FRAMES // 2).round().astype(int))
    rest = np.setdiff1d(np.arange(FRAMES), learned)
    assert _error(poses, true, rest) < 0.6 * _error(tracked, true, rest)
    for k in (JAW, BLINK):
        error, before = ((c[rest, k] - coefficients[rest, k]).std() for c in (refined, noisy))
        assert error < 0.7 * before


def test_a_short_clip_and_a_still_face_stay_as_tracked(clip, neutral):
    _, _, tracked, noisy, frames = clip
    few = Poses(*(getattr(tracked, n)[: LEAST_FRAMES - 1] for n in ("rotation", "translation", "expression")))
    poses, refined = refine_by_appearance(lambda i: frames[i], neutral, VIEW, few, noisy[: LEAST_FRAMES - 1])
    assert poses is few
    np.testing.assert_array_equal(refined, noisy[: LEAST_FRAMES - 1])
    still = np.full((FRAMES, 52), 0.1)
    _, refined = refine_by_appearance(lambda i: frames[i], neutral, VIEW, tracked, still)
    np.testing.assert_allclose(refined, still, atol=1e-12)


def test_the_grid_follows_the_head(clip, neutral):
    true, _, _, _, frames = clip
    grid = FaceGrid.over(neutral)
    assert grid.near(neutral[[*LEFT_EYE, *RIGHT_EYE]], 1.0).mean() < 0.2
    looks = []
    for i in (0, 40, 80):
        face = portrait(frames[i], grid, VIEW, true.rotation[i], true.translation[i])
        looks.append(look(face, grid, VIEW, true.rotation[i], true.translation[i])[0])
    elsewhere = look(face, grid, VIEW, true.rotation[0], true.translation[0])[0]
    upper = grid.points[:, 1] > neutral[list(RIGHT_EYE), 1].mean() + 1.5  # the forehead: nothing is moved there
    assert np.corrcoef(looks[0][upper], looks[2][upper])[0, 1] > 0.98
    assert np.corrcoef(looks[0][upper], elsewhere[upper])[0, 1] < 0.95
