"""Codecs, times, geometry and colour of decoded frames."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avatar.capture.decode import DecodeLog, aligned_crop, decode_cropped, sample_frames
from avatar.capture.probe import probe
from avatar.types import Crop

CODECS = [
    ("libx264", ".mp4", "yuv420p", {"crf": "10", "bf": "2"}),
    ("libx265", ".mp4", "yuv420p", {"crf": "10", "x265-params": "log-level=none:bframes=2"}),
    ("libx265", ".mp4", "yuv420p10le", {"crf": "10", "x265-params": "log-level=none"}),
    ("libvpx-vp9", ".webm", "yuv420p", {"crf": "10", "b": "0", "deadline": "realtime"}),
    ("libsvtav1", ".mkv", "yuv420p", {"preset": "12", "crf": "15"}),
    ("mpeg4", ".avi", "yuv420p", {"b": "4M", "qmin": "1", "qmax": "2"}),
    ("mpeg4", ".mp4", "yuv420p", {"b": "4M", "qmin": "1", "qmax": "2", "bf": "2"}),
    ("mpeg1video", ".mpg", "yuv420p", {"b": "4M", "qmin": "1", "qmax": "2"}),
    ("mjpeg", ".mov", "yuvj422p", {"b": "4M", "qmin": "1", "qmax": "2"}),
    ("ffv1", ".mkv", "bgr0", {}),
]


def _all(path: Path, crop: Crop | None = None):
    info, log = probe(path), DecodeLog()
    side = min(info.upright_size)
    crop = aligned_crop(info, crop or Crop(0, 0, side, side))
    return info, crop, log, list(decode_cropped(info, crop, log))


@pytest.mark.parametrize("codec,suffix,pixel_format,options", CODECS)
def test_every_frame_comes_once_at_its_time(make, tmp_path, codec, suffix, pixel_format, options):
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of PyAV cannot write {codec}")
    before = os.sched_getscheduler(0)
    clip = make.encode(tmp_path / f"clip{suffix}", make.counting(40), codec, pixel_format=pixel_format, options=options)
    assert os.sched_getscheduler(0) == before  # see `encode`
    info, crop, log, frames = _all(clip)
    assert make.numbers(f.rgb for f in frames) == list(range(40))
    times = np.array([f.seconds for f in frames])
    np.testing.assert_allclose(times - times[0], np.arange(40) / 25, atol=6e-4)  # WebM and Matroska count in ms
    assert info.packets == 40 and abs(info.fps - 25) < 0.1 and abs(info.duration - 1.6) < 0.01
    assert not log.failures and not log.corrupt and not log.repeated
    assert {f.rgb.shape for f in frames} == {(crop.size, crop.size, 3)}


def test_variable_frame_rate_keeps_the_true_times(make, tmp_path):
    ticks = np.cumsum(np.random.default_rng(1).integers(12, 70, 40)).tolist()
    clip = make.encode(tmp_path / "vfr.mkv", make.counting(40), ticks=ticks, options={"crf": "10"})
    _, _, _, frames = _all(clip)
    assert make.numbers(f.rgb for f in frames) == list(range(40))
    np.testing.assert_allclose([f.seconds for f in frames], np.array(ticks) / 1000, atol=1e-6)


def test_odd_sizes(make, tmp_path):
    clip = make.encode(tmp_path / "odd.mkv", make.counting(5, (101, 77)), "ffv1", pixel_format="yuv444p")
    info, crop, _, frames = _all(clip)
    assert info.upright_size == (101, 77)
    assert crop.side == 76 and frames[0].rgb.shape == (76, 76, 3)


def _corners(width: int, height: int) -> np.ndarray:
    """Red, green, blue and white quarters: top left, top right, bottom left, bottom right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2, 0] = 200
    picture[: height // 2, width // 2 :, 1] = 200
    picture[height // 2 :, : width // 2, 2] = 200
    picture[height // 2 :, width // 2 :] = 200
    return picture


def _quarters(rgb: np.ndarray) -> str:
    """Which colour each quarter of a picture has, top left to bottom right."""
    h, w = rgb.shape[0] // 4, rgb.shape[1] // 4
    names = {(1, 0, 0): "r", (0, 1, 0): "g", (0, 0, 1): "b", (1, 1, 1): "w"}
    return "".join(names.get(tuple((rgb[y, x] > 100).astype(int)), "?") for y in (h, 3 * h) for x in (w, 3 * w))


@pytest.mark.parametrize("matrix,expected", [
    ((1, 0, 0, 1), "rgbw"), ((0, 1, -1, 0), "brwg"), ((-1, 0, 0, -1), "wbgr"), ((0, -1, 1, 0), "gwrb"),
    ((-1, 0, 0, 1), "grwb"),
])  # fmt: skip
def test_rotation_metadata(make, tmp_path, matrix, expected):
    """The quarter turns of phones (clockwise, upside down, anticlockwise) and the mirror of front cameras."""
    clip = make.encode(tmp_path / "turned.mp4", [_corners(96, 64)] * 4, options={"crf": "5"})
    info, _, _, _ = _all(make.turn(clip, matrix))
    assert info.upright_size == ((96, 64) if matrix[0] else (64, 96))
    whole = sample_frames(info, 2)[0].rgb
    assert whole.shape[1::-1] == info.upright_size
    assert _quarters(whole) == expected


def test_the_crop_is_cut_from_the_upright_picture(make, tmp_path):
    picture = np.full((64, 96, 3), 50, np.uint8)
    picture[8:24, 60:76] = (220, 60, 40)  # coded; turned clockwise its left is 64 - 8 - 16, its top 60
    clip = make.turn(make.encode(tmp_path / "turned.mp4", [picture] * 4, options={"crf": "5"}), (0, 1, -1, 0))
    _, crop, _, frames = _all(clip, Crop(40, 60, 16, 16))
    assert crop == Crop(40, 60, 16, 16)
    assert frames[0].rgb[2:-2, 2:-2, 0].min() > 190
    _, _, _, wider = _all(clip, Crop(32, 52, 32, 32))
    red = wider[0].rgb[..., 0] > 135
    assert (red.nonzero()[0].min(), red.nonzero()[0].max()) == (8, 23)
    assert (red.nonzero()[1].min(), red.nonzero()[1].max()) == (8, 23)


def test_anamorphic_pixels_become_square(make, tmp_path):
    """A disc drawn in pixels twice as wide as high comes out round."""
    y, x = np.mgrid[0:96, 0:64]
    disc = np.where(((x - 32) * 2) ** 2 + (y - 48) ** 2 < 30**2, 220, 30).astype(np.uint8)
    clip = make.encode(
        tmp_path / "wide.mp4", [np.stack([disc] * 3, -1)] * 3, pixel_aspect=Fraction(2), options={"crf": "5"}
    )
    info, crop, _, frames = _all(clip, Crop(16, 0, 96, 96))
    assert info.upright_size == (128, 96) and crop == Crop(16, 0, 96, 96)
    inside = frames[0].rgb[..., 0] > 125
    assert abs(int(inside.any(0).sum()) - 60) <= 2 and abs(int(inside.any(1).sum()) - 60) <= 2


WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def _yuv(rgb: tuple[int, int, int], matrix: str, full: bool) -> list[int]:
    """8-bit Y'CbCr of an R'G'B' colour (ITU-R BT.601, BT.709, BT.2020)."""
    kr, kb = WEIGHTS[matrix]
    r, g, b = (v / 255 for v in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    scale = ((255, 0), (255, 128)) if full else ((219, 16), (224, 128))
    return [round(luma * scale[0][0] + scale[0][1]), *(round(c * scale[1][0] + scale[1][1]) for c in (cb, cr))]


@pytest.mark.parametrize("size,code,full,matrix", [
    ((96, 64), 1, False, "bt709"), ((96, 64), 1, True, "bt709"), ((96, 64), 6, False, "bt601"),
    ((96, 64), 5, True, "bt601"), ((96, 64), 9, False, "bt2020"),
    ((96, 64), 2, False, "bt601"), ((1280, 720), 2, False, "bt709"),
])  # fmt: skip
def test_colours_follow_the_tags(tmp_path, size, code, full, matrix):
    """Exact colours for every matrix and range; without tags BT.601 below 720 lines, BT.709 from there."""
    for colour in ((200, 60, 30), (40, 180, 90), (60, 70, 210), (224, 172, 140)):
        clip = tmp_path / "colour.mkv"
        with av.open(str(clip), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = *size, "yuv444p"
            context.colorspace, context.color_range = code, 2 if full else 1
            planes = np.stack([np.full(size[::-1], v, np.uint8) for v in _yuv(colour, matrix, full)])
            for _ in range(2):
                frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
                frame.colorspace, frame.color_range = code, 2 if full else 1
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        _, _, _, frames = _all(clip, Crop(0, 0, 64, 64))
        error = np.abs(frames[0].rgb.astype(int) - colour).max()
        assert error <= 2, (colour, frames[0].rgb[9, 9])  # rounding to 8-bit Y'CbCr: worst seen 2


@pytest.mark.parametrize("size", [120, 74])
def test_shrinking_does_not_alias(make, tmp_path, size):
    """Single-pixel stripes and checks, which no smaller picture can show, become grey."""
    y, x = np.mgrid[0:240, 0:240]
    for pattern in (x % 2, y % 2, (x + y) % 2):
        picture = np.repeat((pattern * 200 + 28).astype(np.uint8)[..., None], 3, -1)
        clip = make.encode(tmp_path / "fine.mkv", [picture] * 2, "ffv1", pixel_format="yuv444p")
        _, _, _, frames = _all(clip, Crop(0, 0, 240, size))
        inner = frames[0].rgb[4:-4, 4:-4].astype(int)
        assert np.abs(inner - 128).max() <= 12  # of 100: worst seen 8, at 74 px; point sampling gives 100


def test_samples_are_spread_over_the_clip_without_decoding_it_all(make, tmp_path):
    clip = make.encode(tmp_path / "long.mp4", make.counting(60, step=3), options={"crf": "10", "g": "10"})
    info = probe(clip)
    assert len(info.keyframes) >= 6
    samples = sample_frames(info, 6)
    found = make.numbers((s.rgb for s in samples), step=3)
    assert len(found) == 6 and found == sorted(found)
    assert found[0] <= 10 and found[-1] >= 50
    assert all(abs(s.seconds * 25 - n) < 0.01 for s, n in zip(samples, found, strict=True))


def test_samples_of_a_clip_with_one_keyframe(make, tmp_path):
    clip = make.encode(tmp_path / "one.mp4", make.counting(50), options={"crf": "10", "g": "1000"})
    assert make.numbers(s.rgb for s in sample_frames(probe(clip), 5)) == [
        0,
        15,
        25,
        35,
        45,
    ]  # the keyframe is near enough to 5


def test_interlaced_lines_are_merged(make, tmp_path):
    """A bar that has moved between the two fields shows no comb after decoding."""
    frames = []
    for i in range(8):
        picture = np.full((128, 128, 3), 40, np.uint8)
        picture[0::2, 10 + 12 * i : 30 + 12 * i] = 210
        picture[1::2, 16 + 12 * i : 36 + 12 * i] = 210
        frames.append(picture)
    clip = make.encode(
        tmp_path / "fields.mpg", frames, "mpeg2video", options={"flags": "+ilme+ildct", "qscale": "2"}, interlaced=True
    )
    info, _, _, decoded = _all(clip)
    assert info.interlaced and len(decoded) == 8
    np.testing.assert_allclose(np.diff([f.seconds for f in decoded]), 0.04, atol=1e-6)
    comb = np.abs(np.diff(decoded[4].rgb[20:-20, :, 1].astype(int), axis=0)).max()
    assert comb < 60  # 170 between the lines of the untouched frame


def test_streams_without_a_container_have_the_rate_they_claim(make, tmp_path):
    clip = make.encode(tmp_path / "bare.h264", make.counting(30), options={"crf": "10"})
    info, _, _, frames = _all(clip)
    assert not info.timed and info.fps == pytest.approx(25)
    assert make.numbers(f.rgb for f in frames) == list(range(30))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(30) / 25, atol=1e-6)
    assert len(sample_frames(info, 5)) == 5


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".flv", ".webm", ".avi"])
def test_samples_come_from_every_container(make, tmp_path, suffix):
    """Some containers cannot be entered at every keyframe."""
    codec = {".mpg": "mpeg2video", ".webm": "libvpx-vp9"}.get(suffix, "libx264")
    clip = make.encode(tmp_path / f"clip{suffix}", make.counting(50), codec, options={"g": "12", "b": "2M"})
    found = make.numbers(s.rgb for s in sample_frames(probe(clip), 6))
    assert len(found) >= 5 and found[0] <= 12 and found[-1] >= 36
