"""Landmark distance with MediaPipe on a real face."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from avatar.evaluate.landmark_distance import LandmarkDistance


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    folder = os.environ.get("AVATAR_CAPTURES")
    if not folder:
        pytest.skip("AVATAR_CAPTURES is not set: no real clip to look at")
    pytest.importorskip("mediapipe")
    import av

    with av.open(str(Path(folder) / "presenter_20s.mp4")) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_a_picture_moved_by_five_pixels_is_five_pixels_away(face, capfd):
    distance = LandmarkDistance()
    distance.add(face, face)
    assert distance.result() == (0.0, [])
    moved = LandmarkDistance()
    moved.add(np.roll(face, (3, 4), axis=(0, 1)), face)
    value, notes = moved.result()
    assert value == pytest.approx(5.0, abs=0.8)  # 4.4 measured: the face box that the detector finds first is coarse
    assert notes == []
    assert capfd.readouterr().err == ""  # the networks' own announcements stay off the terminal


def test_a_frame_without_a_face_is_counted(face):
    distance = LandmarkDistance()
    distance.add(np.zeros_like(face), face)
    assert distance.result() == (None, ["lmd leaves out 1 of 1 frames in which no face was detected"])
