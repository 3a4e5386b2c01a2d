"""Late and early sound is found and undone, and nothing is made of sound that has nothing to do with the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from avatar.errors import UserError
from avatar.progress import Reporter
from avatar.speech import load_speech, speech_features
from avatar.speech.features import log_mel
from avatar.speech.offset import estimate_offset
from avatar.types import Capture, Crop


@pytest.mark.parametrize("late", [-0.15, 0.0, 0.09, 0.2])
def test_a_known_shift_is_found(talker, late: float) -> None:
    samples, track = talker(late=late)
    estimate = estimate_offset(*log_mel(samples), track)
    assert estimate.confident
    assert estimate.seconds == pytest.approx(late, abs=0.025)


def test_unrelated_sound_is_not_trusted(talker) -> None:
    samples, _ = talker(seed=5)
    _, track = talker(seed=0)
    assert not estimate_offset(*log_mel(samples), track).confident


def test_a_short_clip_is_not_trusted(talker) -> None:
    samples, track = talker(seconds=3.0, late=0.1)
    assert not estimate_offset(*log_mel(samples), track).confident


class _NoFrames:
    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> np.ndarray:
        raise IndexError


def _capture(folder: Path, audio: np.ndarray | None, times: np.ndarray) -> Capture:
    return Capture(folder, _NoFrames(), times, 25.0, audio, Crop(0, 0, 512, 512), "talker", "0", (512, 512))


class _Ears(Reporter):
    """A reporter that remembers."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.heard: list[str] = []

    def say(self, message: str) -> None:
        self.heard.append(message)


def test_the_stage_removes_the_offset_and_writes_the_file(talker, tmp_path: Path) -> None:
    samples, track = talker(late=0.12)
    ears, path = _Ears(), tmp_path / "run" / "speech.safetensors"
    features = speech_features(_capture(tmp_path, samples, track.times), track, path, ears)
    assert features is not None
    assert features.offset_seconds == pytest.approx(0.12, abs=0.025)
    np.testing.assert_allclose(features.times + features.offset_seconds, log_mel(samples)[1])
    assert any("late" in line for line in ears.heard)
    read = load_speech(path)
    np.testing.assert_array_equal(read.log_mel, features.log_mel)
    np.testing.assert_array_equal(read.times, features.times)
    assert read.offset_seconds == features.offset_seconds
    assert [p.name for p in path.parent.iterdir()] == ["speech.safetensors"]


@pytest.mark.parametrize("audio", [None, np.zeros(32000, np.float32), np.ones(400, np.float32)])
def test_no_sound_is_said_and_skipped(talker, tmp_path: Path, audio: np.ndarray | None) -> None:
    _, track = talker(seconds=3.0)
    ears, path = _Ears(), tmp_path / "speech.safetensors"
    assert speech_features(_capture(tmp_path, audio, track.times), track, path, ears) is None
    assert "skipped" in ears.heard[0]
    assert not path.exists()


def test_a_damaged_file_is_refused(talker, tmp_path: Path) -> None:
    path = tmp_path / "speech.safetensors"
    with pytest.raises(UserError, match="no speech features"):
        load_speech(path)
    path.write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="cannot be read"):
        load_speech(path)
    samples, track = talker(seconds=3.0)
    speech_features(_capture(tmp_path, samples, track.times), track, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        load_speech(path)


def test_frames_without_a_face_do_not_mislead(talker) -> None:
    samples, track = talker(late=0.09)
    valid = track.valid.copy()
    valid[60:120] = False
    coefficients = track.coefficients.copy()
    coefficients[~valid] = 0
    track = dataclasses.replace(track, valid=valid, coefficients=coefficients)
    assert estimate_offset(*log_mel(samples), track).seconds == pytest.approx(0.09, abs=0.025)
