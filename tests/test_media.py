"""Writing MP4 and reading it back; reading sound of any kind."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from avatar.capture.decode import DecodeLog, decode_cropped
from avatar.capture.probe import probe
from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError
from avatar.media import VideoWriter, read_speech, write_video
from avatar.types import Crop


def _pictures(count: int, width: int = 128, height: int = 128):
    """Smooth coloured waves that wander."""
    y, x = np.mgrid[0:height, 0:width]
    for i in range(count):
        waves = [128 + 100 * np.sin(x / a + y / b + i / 9) for a, b in ((40, 31), (29, 50), (61, 37))]
        yield np.stack(waves, -1).round().astype(np.uint8)


def _read(path):
    info = probe(path)
    side = min(info.upright_size)
    return list(decode_cropped(info, Crop(0, 0, side, side), DecodeLog()))


def _tone(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def _wav(path, samples: np.ndarray, rate: int, channels: int = 1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def test_what_is_written_decodes_to_the_same_rgb(tmp_path):
    path = tmp_path / "out.mp4"
    write_video(path, _pictures(30), fps=25, crf=12)
    frames = _read(path)
    assert len(frames) == 30
    error = np.stack([f.rgb.astype(float) - p for f, p in zip(frames, _pictures(30), strict=True)])
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.3  # a wrong matrix or range shifts means by 2 and more
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 42  # seen 46.7


@pytest.mark.parametrize(
    "colour", [(200, 60, 30), (40, 180, 90), (60, 70, 210), (224, 172, 140), (0, 0, 0), (255,) * 3]
)
def test_flat_colours_survive(tmp_path, colour):
    path = tmp_path / "flat.mp4"
    write_video(path, [np.full((64, 64, 3), colour, np.uint8)] * 3, fps=25, crf=1)
    assert np.abs(_read(path)[1].rgb.astype(int) - colour).max() <= 3  # 8-bit Y'CbCr rounding twice; seen 2


def test_the_file_is_tagged_and_plays_everywhere(tmp_path):
    path = tmp_path / "out.mp4"
    write_video(path, _pictures(5, 101, 67), fps=30, audio=_tone(0.2))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        context = video.codec_context
        assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 102, 68)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert audio.codec_context.name == "aac" and audio.codec_context.sample_rate == SAMPLE_RATE
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts to play before it is loaded


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path):
    path = tmp_path / "odd.mp4"
    picture = np.full((67, 67, 3), 200, np.uint8)
    write_video(path, [picture] * 2, fps=25, crf=5)
    rgb = _read(path)[0].rgb
    assert rgb.shape == (68, 68, 3) and np.abs(rgb.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("fps,rate", [(25, Fraction(25)), (29.97, Fraction(30000, 1001)), (12.5, Fraction(25, 2))])
def test_constant_rates_are_exact(tmp_path, fps, rate):
    path = tmp_path / "rate.mp4"
    write_video(path, _pictures(20, 64, 64), fps=fps)
    assert [round(f.seconds, 5) for f in _read(path)] == [round(float(i / rate), 5) for i in range(20)]


def test_own_times_are_kept(tmp_path):
    path = tmp_path / "times.mp4"
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.08, 20))
    write_video(path, _pictures(20, 64, 64), times=times - times[0])
    np.testing.assert_allclose([f.seconds for f in _read(path)], times - times[0], atol=1e-5)


def test_sound_stays_with_the_picture(tmp_path):
    path = tmp_path / "click.mp4"
    speech = np.zeros(3 * SAMPLE_RATE, np.float32)
    speech[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + 16] = 0.9
    write_video(path, _pictures(75, 64, 64), fps=25, audio=speech)
    heard = read_speech(path)
    assert abs(int(np.abs(heard).argmax()) - 2 * SAMPLE_RATE) < 0.002 * SAMPLE_RATE + 16
    assert abs(len(heard) - len(speech)) <= 1024  # AAC works in blocks


def test_nothing_is_left_after_an_interruption(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an older video")

    def interrupted():
        yield from _pictures(3, 64, 64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, interrupted(), fps=25, audio=_tone(1))
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"an older video"


def test_writing_errors_are_sentences(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for path, sentence in [
        (tmp_path / "out.avi", "choose a name that ends in .mp4"),
        (tmp_path / "folder.mp4", "it is a folder"),
        (tmp_path / "file" / "out.mp4", "choose another place"),
    ]:
        with pytest.raises(UserError, match=sentence):
            write_video(path, _pictures(2, 64, 64), fps=25)
    with pytest.raises(UserError, match="no frame to write"):
        write_video(tmp_path / "none.mp4", [], fps=25)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    def full(self, packets):
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.mp4"
    with pytest.raises(UserError, match="No space left on device"), VideoWriter(path, 25) as writer:
        for i, picture in enumerate(_pictures(4, 64, 64)):
            writer.add(picture)
            if i == 1:
                writer._container = type("Full", (), {"mux": full, "close": lambda self: None})()
    assert not list(tmp_path.iterdir())


def test_misuse_is_refused(tmp_path):
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="times must increase"):
        write_video(tmp_path / "a.mp4", [picture, picture], times=[0.5, 0.5])
    with pytest.raises(ValueError, match="differs from the first"):
        write_video(tmp_path / "a.mp4", [picture, picture[:32]], fps=25)
    with (
        pytest.raises(ValueError, match="a time with every frame"),
        VideoWriter(tmp_path / "a.mp4", fps=None) as writer,
    ):
        writer.add(picture)
    with pytest.raises(ValueError, match="either fps or times"):
        write_video(tmp_path / "a.mp4", [], fps=25, times=[])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("rate,channels", [(8000, 1), (16_000, 1), (22_050, 2), (44_100, 2), (48_000, 6)])
def test_any_wav_becomes_mono_16_khz(tmp_path, rate, channels):
    samples = np.repeat(_tone(1.0, rate)[:, None], channels, 1)
    speech = read_speech(_wav(tmp_path / "tone.wav", samples, rate, channels))
    assert speech.dtype == np.float32 and abs(len(speech) - SAMPLE_RATE) <= 32
    spectrum = np.abs(np.fft.rfft(speech[2000:14_000]))
    assert spectrum.argmax() == 330  # 440 Hz in 0.75 s
    level = np.sqrt(np.mean(speech[2000:14_000] ** 2))
    assert 0.25 < level <= 1 and np.abs(speech).max() <= 1


@pytest.mark.parametrize(
    "codec,suffix", [("flac", ".flac"), ("libmp3lame", ".mp3"), ("libopus", ".ogg"), ("aac", ".m4a")]
)
def test_compressed_sound(tmp_path, codec, suffix):
    path = tmp_path / f"tone{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000)
        stream.codec_context.layout = "mono"
        fifo = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray((_tone(1.0, 48_000) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 48_000
        resampler = av.AudioResampler(stream.codec_context.format, "mono", 48_000)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            part.pts = None
            fifo.write(part)
        while part := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    speech = read_speech(path)
    assert abs(len(speech) / SAMPLE_RATE - 1) < 0.06  # encoder blocks
    assert np.abs(np.fft.rfft(speech[2000:14_000])).argmax() == 330


def test_sound_that_cannot_be_used(tmp_path):
    text, empty, silent = tmp_path / "speech.txt", tmp_path / "empty.wav", tmp_path / "none.mp4"
    text.write_text("hello, I am not sound\n" * 40)
    empty.write_bytes(b"")
    write_video(silent, _pictures(3, 64, 64), fps=25)
    bare = _wav(tmp_path / "bare.wav", np.zeros(0), 16_000)
    for path, sentence in [
        (tmp_path / "nowhere.wav", "There is no file"), (tmp_path, "is a folder"), (empty, "empty"),
        (text, "text file|not a readable sound"), (silent, "no sound track"), (bare, "without any readable sound"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            read_speech(path)


def test_samples_that_are_not_numbers(tmp_path):
    import soundfile

    samples = _tone(1.0)
    samples[5000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="not numbers"):
        read_speech(tmp_path / "nan.wav")


def test_a_colon_in_the_name_is_no_protocol(tmp_path):
    path = _wav(tmp_path / "take:1.wav", _tone(0.5), SAMPLE_RATE)
    assert len(read_speech(path)) == SAMPLE_RATE // 2


def test_the_same_pictures_are_coded_the_same(tmp_path) -> None:
    rng = np.random.default_rng(0)
    soft = np.kron(rng.uniform(60, 200, (18, 18, 3)), np.ones((8, 8, 1)))
    frames = [
        np.clip(np.roll(soft, round(3 * np.sin(k / 3)), 1) + rng.normal(0, 3, soft.shape), 0, 255).astype(np.uint8)
        for k in range(30)
    ]
    coded, rubbish = set(), []
    for k in range(8):
        with VideoWriter(tmp_path / "a.mp4", fps=10) as writer:
            for frame in frames:
                writer.add(frame)
        coded.add((tmp_path / "a.mp4").read_bytes())
        rubbish.append(rng.bytes(100_000 * (k + 1)))  # what lies beyond a buffer's end is not the same twice
    assert len(coded) == 1
