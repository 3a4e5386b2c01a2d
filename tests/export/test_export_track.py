"""The clip's own motion in the avatar file, and as tracks for other programs."""

from __future__ import annotations

import numpy as np
import pytest

from avatar.errors import UserError
from avatar.export import export_track
from avatar.model import Avatar
from avatar.track import head_angles, read_motion_csv, read_motion_json


@pytest.fixture()
def saved(small_avatar, tmp_path):
    path = tmp_path / "someone.avatar"
    small_avatar.save(path)
    return path


def test_the_avatar_file_keeps_the_clips_motion(saved, person) -> None:
    track, motion = person[1], Avatar.load(saved).motion
    assert motion is not None
    np.testing.assert_array_equal(motion.times, track.times)
    np.testing.assert_allclose(motion.coefficients, track.coefficients, rtol=0, atol=0.5 / 255 + 1e-6)
    for name in ("camera_from_head", "camera_from_torso"):
        np.testing.assert_allclose(getattr(motion, name), getattr(track, name), rtol=0, atol=1e-5)


def test_csv_and_json_hold_the_motion(saved, person, tmp_path) -> None:
    table, text = export_track(saved, tmp_path / "out")
    assert (table.name, text.name) == ("someone.csv", "someone.json")
    track = person[1]
    times, *_ = read_motion_json(text)
    np.testing.assert_allclose(times, track.times, atol=1e-5)
    for _, coefficients, angles in (read_motion_csv(table), read_motion_json(text)):
        np.testing.assert_allclose(coefficients, track.coefficients, atol=0.5 / 255 + 1e-5)
        np.testing.assert_allclose(angles, head_angles(track.camera_from_head), atol=1e-5)


def test_a_file_without_motion_says_so(small_avatar, tmp_path) -> None:
    small_avatar.motion = None
    small_avatar.save(tmp_path / "old.avatar")
    assert Avatar.load(tmp_path / "old.avatar").motion is None
    with pytest.raises(UserError, match="fit the clip again"):
        export_track(tmp_path / "old.avatar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_motion_is_refused(small_avatar, tmp_path) -> None:
    motion = small_avatar.motion
    small_avatar.motion = type(motion)(
        motion.times[::-1].copy(), motion.coefficients, motion.camera_from_head, motion.camera_from_torso
    )
    small_avatar.save(tmp_path / "bad.avatar")
    with pytest.raises(UserError, match="damaged"):
        Avatar.load(tmp_path / "bad.avatar")
