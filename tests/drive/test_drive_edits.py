"""What is laid over a motion: single coefficients at single times, and head poses of a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.drive.edits import FADE_SECONDS, HeadMotion, read_edit, read_head_motion
from avatar.errors import UserError
from avatar.track.exchange import EYE_TURN
from avatar.types import Motion

JAW, PUCKER = BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["mouthPucker"]


def still(seconds: float = 4.0, fps: float = 50.0) -> Motion:
    times = np.arange(int(seconds * fps)) / fps
    poses = np.repeat(np.eye(4)[None], len(times), axis=0)
    return Motion(times, np.full((len(times), 52), 0.1, np.float32), poses, poses)


def edit_file(path: Path, names: list, frames: list) -> Path:
    path.write_text(json.dumps({"names": names, "frames": [{"time": t, "weights": w} for t, w in frames]}))
    return path


def test_only_what_is_named_changes_and_only_meanwhile(tmp_path: Path) -> None:
    file = edit_file(tmp_path / "e.json", ["jawOpen", "mouthPucker"], [(1.0, [0.5, None]), (2.0, [0.9, None])])
    before = still()
    after = read_edit(file).apply(before)
    jaw = after.coefficients[:, JAW]
    assert jaw[50] == pytest.approx(0.5) and jaw[75] == pytest.approx(0.7) and jaw[100] == pytest.approx(0.9)
    outside = (before.times < 1 - FADE_SECONDS) | (before.times > 2 + FADE_SECONDS)
    np.testing.assert_allclose(jaw[outside], 0.1, atol=1e-6)
    assert np.abs(np.diff(jaw)).max() < 0.9 * 0.02 / FADE_SECONDS  # it comes and goes, without a jump
    others = np.delete(np.arange(52), JAW)
    np.testing.assert_array_equal(after.coefficients[:, others], before.coefficients[:, others])


def test_null_hands_back_in_the_middle(tmp_path: Path) -> None:
    frames = [(1.0, [0.8]), (1.5, [None]), (2.5, [None]), (3.0, [0.6])]
    jaw = read_edit(edit_file(tmp_path / "e.json", ["jawOpen"], frames)).apply(still()).coefficients[:, JAW]
    assert jaw[50] == pytest.approx(0.8) and jaw[100] == pytest.approx(0.1, abs=1e-6) and jaw[150] == pytest.approx(0.6)


def test_pieces_of_a_motion_are_edited_as_the_whole(tmp_path: Path) -> None:
    edit = read_edit(edit_file(tmp_path / "e.json", ["jawOpen"], [(1.0, [0.5]), (3.0, [0.2])]))
    m = still()
    halves = [edit.apply(m.at(s)) for s in (slice(0, 77), slice(77, None))]
    np.testing.assert_allclose(np.concatenate([h.coefficients for h in halves]), edit.apply(m).coefficients, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not an edit"),
        ("[" * 200_000, "is not an edit"),
        ('{"names": ["jawOpen"], "frames": [{"time": 1%s, "weights": [0]}]}' % ("0" * 400), "is not an edit"),
        ('{"names": ["jawOpen"], "frames": [{"time": 0, "weights": [0.1, 0.2]}]}', "is not an edit"),
        ('{"names": ["jawUp"], "frames": [{"time": 0, "weights": [0.1]}]}', "'jawUp'"),
        ('{"names": ["jawOpen"], "frames": []}', "nothing to edit"),
        ('{"names": ["jawOpen"], "frames": [{"time": 0, "weights": [7]}]}', "outside 0..1"),
        ('{"names": ["jawOpen"], "frames": [{"time": 1, "weights": [0]}, {"time": 1, "weights": [0]}]}', "increase"),
    ],
)
def test_bad_edits_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "e.json").write_text("\ufeff" + text, encoding="utf-8")  # as editors on Windows begin a file
    with pytest.raises(UserError, match=words):
        read_edit(tmp_path / "e.json")
    with pytest.raises(UserError, match="no edit file"):
        read_edit(tmp_path / "other.json")


def test_head_poses_of_a_file_are_followed_and_held() -> None:
    poses = np.repeat(np.eye(4)[None], 2, axis=0)
    poses[1, 0, 3] = 2.0
    head = HeadMotion(np.array([0.0, 2.0]), poses, poses * 1.0)
    out = head.apply(still())
    np.testing.assert_allclose(out.camera_from_head[50, 0, 3], 1.0)
    np.testing.assert_allclose(out.camera_from_head[150:, 0, 3], 2.0)


def test_head_poses_begin_with_the_sound_and_eyes_may_stay_on_the_camera(small_avatar, tmp_path: Path) -> None:
    person = replace(small_avatar.person, low=np.zeros(52, np.float32), high=np.ones(52, np.float32))
    frames = [{"time": 100 + k / 25, "weights": [0.1], "head": [0.3 * k / 25, 0, 0]} for k in range(26)]
    (tmp_path / "head.json").write_text(json.dumps({"names": ["jawOpen"], "frames": frames}))
    before, out = still(1.0), BLENDSHAPE_INDEX["eyeLookOutLeft"]
    plain = read_head_motion(tmp_path / "head.json", person).apply(before)
    assert np.abs(plain.camera_from_head[49] - plain.camera_from_head[0]).max() > 0.2
    np.testing.assert_array_equal(plain.coefficients, before.coefficients)
    held = read_head_motion(tmp_path / "head.json", person, "camera").apply(before).coefficients
    into = BLENDSHAPE_INDEX["eyeLookInLeft"]
    turned = held[:, out] - held[:, into]
    # The face turns to image right, so the eyes go to image left: the left one inwards.
    assert turned[49] - turned[0] == pytest.approx(-0.3 * 49 / 50 / EYE_TURN, abs=0.02)
    others = np.delete(np.arange(52), [i for n, i in BLENDSHAPE_INDEX.items() if n.startswith("eyeLook")])
    np.testing.assert_array_equal(held[:, others], before.coefficients[:, others])
