"""Motion sources keep times, frames of reference and the shortest arc."""

from __future__ import annotations

import numpy as np
import pytest

from avatar.drive import drive, resampled, transferred
from avatar.drive.sources import evened
from avatar.errors import UserError
from avatar.geometry import matrix_from_rotvec
from avatar.types import Motion


def motion(times: np.ndarray, angles: np.ndarray) -> Motion:
    poses = np.repeat(np.eye(4)[None], len(times), axis=0)
    poses[:, :3, :3] = matrix_from_rotvec(np.stack([0 * angles, angles, 0 * angles], axis=1))
    poses[:, 0, 3] = times * 10
    coefficients = np.zeros((len(times), 52), np.float32)
    coefficients[:, 3] = times
    return Motion(times, coefficients, poses, poses)


def test_resampling_keeps_length_and_follows_lines_and_arcs() -> None:
    times = np.array([0.0, 0.04, 0.1, 0.2])  # uneven, as phones film
    out = resampled(motion(times, times), 50.0)
    assert np.allclose(np.diff(out.times), 0.02) and out.times[-1] == pytest.approx(0.2)
    assert np.allclose(out.coefficients[:, 3], out.times, atol=1e-6)
    assert np.allclose(out.camera_from_head[:, 0, 3], out.times * 10)
    expected = matrix_from_rotvec(np.stack([0 * out.times, out.times, 0 * out.times], axis=1))
    assert np.allclose(out.camera_from_head[:, :3, :3], expected, atol=1e-6)


def test_uneven_frames_are_made_even_at_their_usual_rate() -> None:
    times = np.concatenate([np.arange(100) / 30, 100 / 30 + np.arange(50) / 15])  # half of it dropped every other frame
    out = evened(motion(times, times))
    assert np.allclose(np.diff(out.times), 1 / 30) and out.times[-1] == pytest.approx(times[-1], abs=1 / 30)
    assert np.allclose(out.coefficients[:, 3], out.times, atol=1e-6)  # what was at a time is still there
    rounded = motion(np.round(np.arange(100) / 30, 3), np.zeros(100))
    assert evened(rounded) is rounded  # milliseconds of a recorder
    single = motion(np.zeros(1), np.zeros(1))
    assert evened(single) is single
    burst = np.concatenate([np.arange(10) / 10_000, [1.0]])
    assert len(evened(motion(burst, burst)).times) <= 241


def test_one_frame_is_left_alone() -> None:
    single = motion(np.array([0.0]), np.array([0.3]))
    assert resampled(single, 25.0) is single


def test_transfer_is_the_rest_in_the_reference_frame_and_turns_about_the_head() -> None:
    source = motion(np.array([0.0, 1.0]), np.array([0.2, 0.5])).camera_from_head
    rest = np.eye(4)
    rest[:3, :3] = np.diag([1.0, -1.0, -1.0])
    rest[:3, 3] = (1.0, 2.0, 60.0)
    moved = transferred(source, 0, rest)
    assert np.allclose(moved[0], rest)
    turn = rest[:3, :3].T @ moved[1, :3, :3]
    assert np.allclose(turn, matrix_from_rotvec(np.array([0.0, 0.3, 0.0])), atol=1e-6)
    assert np.allclose(moved[1, :3, 3] - rest[:3, 3], [10.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "exactly one source"),
        ({"speech": "a.wav", "video": "b.mp4"}, "exactly one source"),
        ({"speech": "a.wav", "fps": 0.1}, "--fps 0.1 is out of range"),
        ({"speech": "a.wav", "output": "x.gif"}, "must end in .mp4"),
        ({"speech": "a.wav"}, "There is no avatar file"),
    ],
)
def test_mistakes(tmp_path, arguments, sentence) -> None:
    from pathlib import Path

    paths = {k: Path(v) if isinstance(v, str) else v for k, v in arguments.items()}
    paths.setdefault("output", tmp_path / "out.mp4")
    with pytest.raises(UserError, match=sentence):
        drive(tmp_path / "none.avatar", **paths)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [15, 4097, 10**9])
def test_a_size_that_cannot_be_drawn_is_refused(small_avatar, size: int) -> None:
    with pytest.raises(UserError, match="the smallest is 16, the largest 4096"):
        next(small_avatar.frames(small_avatar.rest_motion(np.zeros(1)), size))
