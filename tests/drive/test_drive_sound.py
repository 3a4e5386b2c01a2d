"""Sound as users have it: any format, rate and length works or is refused with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar.conventions import BLENDSHAPE_INDEX, MOUTH_INDICES, SAMPLE_RATE
from avatar.drive.sources import speech_source
from avatar.errors import UserError
from avatar.media import read_speech, speech_blocks, write_video
from avatar.speech import SpeechModel, SpeechModelConfig, SpeechStream, person_statistics
from avatar.speech.motion import joined
from avatar.types import Motion

JAW = BLENDSHAPE_INDEX["jawOpen"]


class Someone:
    """As much of an avatar as speech needs: the mouth opens with loudness."""

    def __init__(self, person) -> None:
        self.person = person
        self.speech = SpeechModel(SpeechModelConfig(members=1, width=8, heads=1, memory_size=1)).eval()
        m, index = self.speech.memory, list(MOUTH_INDICES)
        m.directions.zero_()[:, 0] = 0.1 / len(m.mean) ** 0.5
        m.centres.zero_()[0, 0] = -0.09 * len(m.mean) ** 0.5
        m.weight.fill_(-3.0)
        m.bias.fill_(2.0)
        self.speech.target_std.copy_(torch.from_numpy(person.std[index]))
        for name, values in (("target_mean", "mean"), ("rest", "rest"), ("low", "low"), ("high", "high")):
            getattr(self.speech, name).copy_(torch.from_numpy(getattr(person, values)[index]))

    def stream(self) -> SpeechStream:
        return SpeechStream(self.speech, self.person, 25.0)


@pytest.fixture(scope="module")
def someone() -> Someone:
    from avatar.types import Camera, Track

    n = 100
    random = np.random.default_rng(0)
    coefficients = np.full((n, 52), 0.1, np.float32)
    coefficients[:, JAW] = 0.05 + 0.4 * random.random(n).astype(np.float32)
    poses = np.repeat(np.diag([1.0, -1.0, -1.0, 1.0])[None], n, axis=0)
    landmarks = random.uniform(100, 400, (n, 478, 2)).astype(np.float32)
    track = Track(
        camera=Camera(500.0, 256.0, 256.0, 512, 512), times=np.arange(n) / 25, valid=np.ones(n, bool),
        camera_from_head=poses, camera_from_torso=poses, coefficients=coefficients, landmarks=landmarks,
        neutral=np.zeros((478, 3), np.float32), regions=_Regions(), backdrop=np.zeros((8, 8, 3), np.uint8),
        reference_frame=0,
    )  # fmt: skip
    return Someone(person_statistics(track))


class _Regions:
    def __len__(self) -> int:
        return 100

    def labels(self, index: int) -> np.ndarray:
        return np.zeros((8, 8), np.uint8)

    def matte(self, index: int) -> np.ndarray:
        return np.zeros((8, 8), np.uint8)


def spoken(someone: Someone, path: Path) -> Motion:
    return joined(list(speech_source(someone.stream(), path)))


def syllables(seconds: float, rate: int) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * 220 * t) * (np.sin(2 * np.pi * t) > 0)  # half a second, half a second nothing


def wav(
    rate: int = SAMPLE_RATE, channels: int = 1, subtype: str = "PCM_16", gain: float = 1.0, seconds: float = 2.0,
    suffix: str = ".wav",
) -> Callable[[Path], Path]:  # fmt: skip
    def write(folder: Path) -> Path:
        import soundfile

        data = np.repeat((gain * syllables(seconds, rate)).clip(-1, 1)[:, None], channels, axis=1)
        soundfile.write(str(folder / f"a{suffix}"), data, rate, subtype=subtype)
        return folder / f"a{suffix}"

    return write


def coded(suffix: str, codec: str, rate: int = 48_000):
    def write(folder: Path) -> Path:
        import av

        path = folder / f"a{suffix}"
        try:
            with av.open(str(path), "w") as container:
                stream = container.add_stream(codec, rate=rate)
                stream.codec_context.layout = "mono"
                samples, step = syllables(2.0, rate).astype(np.float32), stream.codec_context.frame_size or 1024
                kind = stream.codec_context.format.name
                for start in range(0, len(samples), step):
                    chunk = samples[start : start + step]
                    whole = (chunk * 32767).astype(np.int16) if kind.startswith("s16") else chunk
                    frame = av.AudioFrame.from_ndarray(whole[None], format=kind, layout="mono")
                    frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except (ValueError, av.error.FFmpegError) as error:
            pytest.skip(f"this build of PyAV cannot write {codec}: {error}")
        return path

    return write


def video(folder: Path) -> Path:
    pictures = (np.full((32, 32, 3), i, np.uint8) for i in range(20))
    write_video(folder / "v.mp4", pictures, 10.0, audio=syllables(2.0, SAMPLE_RATE).astype(np.float32))
    return folder / "v.mp4"


GOOD = {
    "16 kHz": wav(), "8 kHz": wav(8_000), "96 kHz": wav(96_000), "stereo": wav(44_100, 2), "5.1": wav(48_000, 6),
    "24 bit": wav(48_000, 1, "PCM_24"), "float": wav(48_000, 1, "FLOAT"), "clipped": wav(gain=30.0),
    "flac": wav(48_000, 1, "PCM_24", suffix=".flac"), "mp3": wav(44_100, 1, "MPEG_LAYER_III", suffix=".mp3"),
    "ogg": wav(44_100, 1, "VORBIS", suffix=".ogg"), "m4a": coded(".m4a", "aac"), "opus": coded(".opus", "libopus"),
    "video": video,
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_sound_of_every_kind_moves_the_mouth(someone: Someone, tmp_path: Path, name: str) -> None:
    motion = spoken(someone, GOOD[name](tmp_path))
    assert len(motion.times) == pytest.approx(50, abs=4)
    assert np.isfinite(motion.coefficients).all()
    jaw = motion.coefficients[:, JAW]
    assert jaw[31:34].mean() > jaw[43:46].mean() + 0.02  # open in a syllable, closed after it


def test_silence_is_still_and_closed(someone: Someone, tmp_path: Path) -> None:
    motion = spoken(someone, wav(gain=0.0)(tmp_path))
    assert np.ptp(motion.coefficients[:, JAW]) < 1e-6
    assert motion.coefficients[0, JAW] == pytest.approx(float(someone.person.rest[JAW]), abs=1e-6)


def test_a_tenth_of_a_second_works(someone: Someone, tmp_path: Path) -> None:
    motion = spoken(someone, wav(seconds=0.1)(tmp_path))
    assert len(motion.times) == 3


def empty(folder: Path) -> Path:
    (folder / "a.wav").write_bytes(b"")
    return folder / "a.wav"


def text(folder: Path) -> Path:
    (folder / "a.wav").write_text("this is no sound")
    return folder / "a.wav"


def not_numbers(folder: Path) -> Path:
    import soundfile

    samples = syllables(2.0, SAMPLE_RATE)
    samples[5000:5100] = np.nan
    soundfile.write(str(folder / "a.wav"), samples, SAMPLE_RATE, subtype="FLOAT")
    return folder / "a.wav"


def mute(folder: Path) -> Path:
    write_video(folder / "v.mp4", (np.zeros((32, 32, 3), np.uint8) for _ in range(5)), 10.0)
    return folder / "v.mp4"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty, "empty"),
        (text, "not a readable sound"),
        (not_numbers, "not numbers"),
        (mute, "no sound track"),
        (lambda folder: folder / "none.wav", "There is no file"),
        (lambda folder: folder, "is a folder"),
        (wav(seconds=0.02), "at least 0.1 s"),
    ],
)
def test_unusable_sound_is_refused_in_a_sentence(
    someone: Someone, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        spoken(someone, make(tmp_path))
    assert "\n" not in str(refused.value)


def test_blocks_are_the_whole(tmp_path: Path) -> None:
    path = wav(44_100, 2, seconds=5.3)(tmp_path)
    blocks = list(speech_blocks(path))
    assert len(blocks) > 3 and max(map(len, blocks)) < 2 * SAMPLE_RATE
    np.testing.assert_array_equal(np.concatenate(blocks), read_speech(path))


def test_hours_are_read_in_constant_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = wav(8_000, seconds=240.0)(tmp_path)
    tracemalloc.start()
    read = sum(len(block) for block in speech_blocks(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == pytest.approx(240 * SAMPLE_RATE, rel=1e-3)
    assert peak < 5e6  # four minutes of samples are 15 MB
