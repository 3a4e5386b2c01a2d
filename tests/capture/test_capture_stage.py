"""The whole stage on clips of a drawn face, good and bad."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from avatar.capture import capture, clip_sha256, load_capture
from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def _says(result, text: str) -> bool:
    return any(text in f.message for f in result.findings)


def test_a_good_clip(face_clip, tmp_path, capfd):
    result = capture(face_clip, tmp_path / "run" / "capture", 256)
    assert len(result.frames) == 100 and result.size == 256 and result.fps == pytest.approx(25)
    np.testing.assert_allclose(result.times, np.arange(100) / 25, atol=1e-6)
    assert (result.crop.left, result.crop.top, result.crop.side) == (0, 0, 512)
    assert result.frames[50].shape == (256, 256, 3)
    assert result.source_size == (512, 512) and result.source_name == "face.mp4"
    assert result.source_sha256 == clip_sha256(face_clip)
    assert abs(int(np.abs(result.audio).argmax()) - SAMPLE_RATE) < 40  # the click at 1 s
    assert _names(tmp_path) == ["run"] and _names(tmp_path / "run") == ["capture"]
    assert _names(tmp_path / "run" / "capture") == ["audio.f32", "capture.json", "frames.rgb"]
    assert capfd.readouterr().err == ""
    again = load_capture(tmp_path / "run" / "capture")
    np.testing.assert_array_equal(again.frames[99], result.frames[99])


@pytest.mark.parametrize("delay", [0.3, -0.3])
def test_sound_is_on_the_clock_of_the_picture(make, face_clip, tmp_path, delay, monkeypatch):
    """A sound track that starts after the picture, or before it."""
    frames = (make.scene((256, 256), [(28, 30, 200)]) for _ in range(60))
    ticks = [i * 40 + (300 if delay < 0 else 0) for i in range(60)]
    clip = make.encode(tmp_path / "late.mkv", frames, tone=True, sound_delay=max(delay, 0), ticks=ticks)
    result = capture(clip, tmp_path / "capture", None)
    assert result.times[0] == 0
    assert abs(int(np.abs(result.audio).argmax()) - (1 + delay) * SAMPLE_RATE) < 0.002 * SAMPLE_RATE + 40
    assert len(result.audio) <= round((result.times[-1] + 0.05) * SAMPLE_RATE)


def test_a_small_face_in_a_wide_clip(make, tmp_path):
    picture = make.scene((640, 360), [(380, 100, 180)], background=100)
    clip = make.encode(tmp_path / "wide.mp4", [picture] * 60)
    result = capture(clip, tmp_path / "capture", 512)
    crop = result.crop
    assert 150 <= crop.side <= 240 and crop.size == crop.side  # the drawn face is about 76 px
    assert abs(crop.left + crop.side / 2 - 470) < 20
    assert (
        np.abs(
            result.frames[30].astype(int) - picture[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
        ).mean()
        < 4
    )
    assert _says(result, f"frames are {crop.size} px, not 512")
    assert _says(result, "fill only") and _says(result, "px wide") and _says(result, "no sound")
    assert {f.severity for f in result.findings} == {"note", "warning"}


def test_findings_about_times_and_light(make, tmp_path):
    ticks = np.cumsum(np.random.default_rng(0).integers(30, 110, 45)).tolist()
    dark = (make.scene((512, 512), [(56, 60, 400)]) // 4).astype(np.uint8)
    clip = make.encode(tmp_path / "dark.mkv", [dark] * 45, ticks=ticks)
    result = capture(clip, tmp_path / "capture", 64)
    assert _says(result, "not evenly spaced") and _says(result, "frames per second") and _says(result, "is dark")
    assert _says(result, "a few minutes give the best avatar")


def _bad_clips(make, folder: Path, face_clip: Path) -> list[tuple[Path, str]]:
    """Files that must be refused, and the words of the sentence."""
    text, renamed, empty = folder / "a.txt", folder / "b.mp4", folder / "c.mp4"
    text.write_text("not a video\n" * 99)
    renamed.write_text("not a video either\n" * 99)
    empty.write_bytes(b"")
    data = face_clip.read_bytes()
    cut = folder / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])  # the index of an MP4 is at its end
    sound, picture = folder / "sound.m4a", folder / "picture.png"
    _sound_only(sound)
    from PIL import Image

    Image.fromarray(make.scene((256, 256), [(28, 30, 200)])).save(picture)
    short = make.encode(folder / "short.mp4", [make.scene((256, 256), [(28, 30, 200)])] * 20)
    faceless = make.encode(folder / "faceless.mp4", [make.scene((256, 256), [])] * 60)
    couple = make.encode(folder / "couple.mp4", [make.scene((640, 360), [(30, 60, 260), (340, 60, 260)])] * 60)
    return [
        (folder / "nowhere.mp4", "There is no file"), (folder, "is a folder"), (empty, "is empty"),
        (text, "text file|not a readable clip"), (renamed, "not a readable clip"), (cut, "not a readable clip"),
        (sound, "has no picture, only sound"), (picture, "too short"), (short, r"too short: 0\.8 s, and 2 s"),
        (faceless, "No face was found"), (couple, "Two people"),
    ]  # fmt: skip


def _sound_only(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        stream.codec_context.layout = "mono"
        for i in range(40):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_bad_clips_are_sentences_and_leave_nothing(make, face_clip, tmp_path, capfd):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    out.mkdir()
    for clip, words in _bad_clips(make, clips, face_clip):
        with pytest.raises(UserError, match=words) as raised:
            capture(clip, out / "run" / "capture", None)
        assert "\n" not in str(raised.value)
        assert _names(out) == []
    capfd.readouterr()


def _with_index_in_front(make, path: Path, seconds: int) -> Path:
    frames = (make.scene((256, 256), [(28, 30 + i % 9, 200)]) for i in range(25 * seconds))
    return make.encode(path, frames, options={"g": "12"}, faststart=True)


def test_a_cut_off_clip_keeps_what_decodes(make, tmp_path):
    clip = _with_index_in_front(make, tmp_path / "cut.mp4", 4)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * 0.8)])
    result = capture(clip, tmp_path / "capture", 128)
    assert 50 <= len(result.frames) < 100
    assert _says(result, "is damaged") and _says(result, "s of picture missing")
    clip.write_bytes(data[: int(len(data) * 0.3)])
    with pytest.raises(UserError, match="damaged: only"):
        capture(clip, tmp_path / "other", 128)
    assert _names(tmp_path) == ["capture", "cut.mp4"]


def test_flipped_bytes_are_survived(make, tmp_path):
    clip = _with_index_in_front(make, tmp_path / "dirty.mp4", 4)
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 5000
    rng = np.random.default_rng(0)
    for at in rng.integers(start, len(data), 40):
        data[at] ^= 0xFF
    clip.write_bytes(data)
    result = capture(clip, tmp_path / "capture", 128)
    assert len(result.frames) > 40 and (np.diff(result.times) > 0).all()
    assert _says(result, "is damaged")


def test_an_interruption_while_decoding_leaves_nothing(face_clip, tmp_path):
    from avatar.progress import Reporter

    class Impatient(Reporter):
        def bar(self, description, total, done=0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(face_clip, tmp_path / "run" / "capture", 64, Impatient(quiet=True))
    assert _names(tmp_path) == []


def test_a_disk_that_fills_up_while_decoding(face_clip, tmp_path, monkeypatch):
    import avatar.capture

    def full(file, frame):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(avatar.capture, "_write_all", full)
    with pytest.raises(UserError, match=r"disk of .* is full"):
        capture(face_clip, tmp_path / "capture", 64)
    assert _names(tmp_path) == []


def test_titles_with_odd_names(face_clip, tmp_path):
    clip = tmp_path / "take: 'one' -é.mp4"
    shutil.copy(face_clip, clip)
    assert len(capture(clip, tmp_path / "run: 1", 64).frames) == 100
