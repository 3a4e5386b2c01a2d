"""A video drawn in pieces: joined it is whole, interrupted it goes on where it was, and nothing is mixed up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.conventions import SAMPLE_RATE
from avatar.drive import drive
from avatar.drive.pieces import PIECE_SECONDS, Pieces
from avatar.errors import UserError
from avatar.media import open_media, read_speech
from avatar.model import Avatar
from avatar.speech import SpeechModel, SpeechModelConfig

FPS, BLOCK, BLOCKS = 10.0, 30, 25  # 75 s: three whole pieces and a rest
NOTE: dict[str, object] = {"source": "abc", "gain": 1.0, "style": None}


class Stopped(Exception):
    pass


def frame(index: int) -> np.ndarray:
    picture = np.full((16, 20, 3), 40, np.uint8)
    picture[:, : index % 20] = 200
    return picture


def sound() -> np.ndarray:
    t = np.arange(int(BLOCK * BLOCKS / FPS * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * 220 * t) * (np.sin(2 * np.pi * 0.5 * t) > 0)).astype(np.float32)


def draw(output: Path, resume: bool = False, stop_at: int | None = None, note: dict[str, object] = NOTE) -> list[int]:
    """Frames that were really drawn."""
    drawn = []
    with Pieces(output, FPS, note, resume) as pieces:
        for block in range(BLOCKS):
            if pieces.has(BLOCK):
                pieces.skip(BLOCK)
                continue
            for index in range(block * BLOCK, (block + 1) * BLOCK):
                if index == stop_at:
                    raise Stopped
                pieces.add(frame(index))
                drawn.append(index)
            pieces.end_block()
        pieces.join(np.split(sound(), 50))
    return drawn


def pictures(path: Path) -> tuple[np.ndarray, list[float]]:
    with open_media(path, "video") as container:
        frames = list(container.decode(video=0))
    return np.stack([f.to_ndarray(format="gray") for f in frames]), [float(f.time) for f in frames]


def test_the_whole_is_every_frame_at_its_time_with_its_sound(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "a.mp4")
    assert drawn == list(range(BLOCK * BLOCKS))
    shown, times = pictures(tmp_path / "a.mp4")
    np.testing.assert_allclose(times, np.arange(BLOCK * BLOCKS) / FPS, atol=1e-6)
    bright = (shown[:, 8, :20] > 120).sum(axis=1)
    assert np.abs(bright - np.arange(BLOCK * BLOCKS) % 20).max() <= 1  # the coder blurs the edge
    heard = read_speech(tmp_path / "a.mp4")
    assert abs(len(heard) - len(sound())) <= 2048
    lag = np.abs(np.correlate(np.abs(heard[: 5 * SAMPLE_RATE]), np.abs(sound()[: 4 * SAMPLE_RATE]), "valid")).argmax()
    assert lag <= 2048  # 0.13 s: the coder's own delay
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    draw(tmp_path / "whole.mp4")
    output = tmp_path / "out.mp4"
    with pytest.raises(Stopped):
        draw(output, stop_at=500)
    assert not output.exists()
    with pytest.raises(Stopped):
        draw(output, resume=True, stop_at=700)
    drawn = draw(output, resume=True)
    first = drawn[0]
    assert first >= 2 * PIECE_SECONDS * FPS and drawn == list(range(first, BLOCK * BLOCKS))
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "whole.mp4"]


def test_nothing_is_left_of_a_run_that_stopped_early(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        draw(tmp_path / "out.mp4", stop_at=50)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_is_neither_thrown_away_nor_mixed(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    with pytest.raises(Stopped):
        draw(output, stop_at=500)
    with pytest.raises(UserError, match=r"interrupted after 42 s .* --resume"):
        draw(output)
    with pytest.raises(UserError, match="had another gain"):
        draw(output, resume=True, note={**NOTE, "gain": 2.0})
    folder = tmp_path / ".out.mp4.pieces"
    (folder / "000001.mp4").rename(folder / "away.mp4")
    with pytest.raises(UserError, match="not complete"):
        draw(output, resume=True)
    (folder / "pieces.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        draw(output, resume=True)


def test_no_frame_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame"), Pieces(tmp_path / "a.mp4", FPS, NOTE, False) as pieces:
        pieces.join(None)
    assert not list(tmp_path.iterdir())


@pytest.fixture()
def talking(small_avatar, tmp_path: Path) -> tuple[Path, Path]:
    """An avatar file whose mouth follows speech somehow, and six seconds of speech."""
    import soundfile

    torch.manual_seed(0)
    model = SpeechModel(SpeechModelConfig(members=1, width=8, heads=2)).eval().requires_grad_(False)
    model.head.weight.normal_()
    small_avatar.speech = model
    small_avatar.metadata = dataclasses.replace(small_avatar.metadata, speech=model.config_dict())
    small_avatar.save(tmp_path / "someone.avatar")
    soundfile.write(str(tmp_path / "said.wav"), sound()[: 6 * SAMPLE_RATE], SAMPLE_RATE)
    return tmp_path / "someone.avatar", tmp_path / "said.wav"


def test_driving_is_resumed_to_the_same_video(talking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    avatar, said = talking
    monkeypatch.setattr("avatar.drive.pieces.PIECE_SECONDS", 1.0)
    whole = drive(avatar, said, tmp_path / "whole.mp4", size=16, fps=10.0)
    shown, _ = pictures(whole)
    assert len(shown) == 60 and np.ptp(shown.astype(int), axis=0).max() > 0  # and something moves

    real, drawn = Avatar.frames, []

    def broken(self: Avatar, motion, *options):
        for picture in real(self, motion, *options):
            if len(drawn) == 35:
                raise KeyboardInterrupt
            drawn.append(picture)
            yield picture

    output = tmp_path / "out.mp4"
    monkeypatch.setattr(Avatar, "frames", broken)
    with pytest.raises(KeyboardInterrupt):
        drive(avatar, said, output, size=16, fps=10.0)
    drawn.clear()
    with pytest.raises(UserError, match="had another gain"):
        drive(avatar, said, output, size=16, fps=10.0, gain=1.5, resume=True)
    drive(avatar, said, output, size=16, fps=10.0, resume=True)
    assert 0 < len(drawn) < 35
    assert output.read_bytes() == whole.read_bytes()


def test_a_whole_motion_is_driven_block_by_block(small_avatar, tmp_path: Path) -> None:
    small_avatar.save(tmp_path / "someone.avatar")
    frames = [{"time": k / 20, "weights": [0.3 + 0.3 * float(np.sin(k))]} for k in range(120)]
    (tmp_path / "motion.json").write_text(json.dumps({"names": ["jawOpen"], "frames": frames}))
    output = drive(tmp_path / "someone.avatar", track=tmp_path / "motion.json", output=tmp_path / "out.mp4", size=16)
    shown, times = pictures(output)
    assert len(shown) == 120 and times[-1] == pytest.approx(119 / 20, abs=1e-3)


def test_uneven_frames_are_shown_at_their_times(small_avatar, tmp_path: Path) -> None:
    small_avatar.save(tmp_path / "someone.avatar")
    times = [*(k / 20 for k in range(60)), *(3 + k / 10 for k in range(30))]
    frames = [{"time": t, "weights": [0.3]} for t in times]
    (tmp_path / "motion.json").write_text(json.dumps({"names": ["jawOpen"], "frames": frames}))
    output = drive(tmp_path / "someone.avatar", track=tmp_path / "motion.json", output=tmp_path / "out.mp4", size=16)
    shown, at = pictures(output)
    assert len(shown) == 119 and at[-1] == pytest.approx(5.9, abs=1e-3)


def test_a_fault_late_in_the_sound_is_found_before_anything_is_drawn(
    talking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    monkeypatch.setattr("avatar.drive.pieces.PIECE_SECONDS", 1.0)
    monkeypatch.setattr(Avatar, "frames", lambda *_: pytest.fail("something was drawn"))
    broken = sound()[: 10 * SAMPLE_RATE]
    broken[-100:] = np.nan
    soundfile.write(str(tmp_path / "late.wav"), broken, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="not numbers"):
        drive(talking[0], tmp_path / "late.wav", tmp_path / "out.mp4", size=16, fps=10.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["late.wav", "said.wav", "someone.avatar"]


def test_a_sound_is_measured_in_constant_memory(tmp_path: Path) -> None:
    import soundfile

    from avatar.drive.sources import measured_sound
    from avatar.speech.features import log_mel
    from avatar.speech.hearing import measured_speech

    soundfile.write(str(tmp_path / "a.wav"), sound()[: 7 * SAMPLE_RATE + 11], SAMPLE_RATE, subtype="FLOAT")
    found = measured_sound(tmp_path / "a.wav", 64)
    assert found.samples == 7 * SAMPLE_RATE + 11 and found.frames(25.0) == 176
    whole = measured_speech(log_mel(sound()[: 7 * SAMPLE_RATE])[0])
    assert whole is not None and found.level == pytest.approx(whole.level, abs=0.1)
