"""Makes clips and drawn faces for the capture tests; the fixture `make` holds the functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from avatar.media import linear_graph


def draw_face(size: int) -> Image.Image:
    """A shaded drawing of a face, neck and shoulders on transparent ground; the face detectors take it for one."""
    big = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    draw = ImageDraw.Draw(big)
    draw.ellipse((60, 310, 340, 560), fill=(50, 60, 110, 255))  # shoulders
    draw.rectangle((165, 250, 235, 340), fill=(185, 135, 110, 255))  # neck
    draw.ellipse((100, 40, 300, 250), fill=(60, 40, 30, 255))  # hair
    draw.ellipse((115, 70, 285, 300), fill=(222, 175, 150, 255))  # face
    draw.ellipse((110, 50, 290, 130), fill=(60, 40, 30, 255))  # fringe
    for x in (160, 240):
        draw.rectangle((x - 24, 140, x + 24, 147), fill=(70, 45, 30, 255))  # brow
        draw.ellipse((x - 18, 160, x + 18, 180), fill=(240, 240, 240, 255))
        draw.ellipse((x - 9, 160, x + 9, 180), fill=(60, 40, 20, 255))
    draw.polygon(((200, 165), (184, 222), (216, 222)), fill=(205, 150, 125, 255))  # nose
    draw.ellipse((186, 216, 196, 223), fill=(120, 70, 60, 255))
    draw.ellipse((204, 216, 214, 223), fill=(120, 70, 60, 255))
    draw.ellipse((168, 243, 232, 265), fill=(180, 80, 80, 255))  # mouth
    draw.line((170, 254, 230, 254), fill=(90, 30, 30, 255), width=3)
    return big.filter(ImageFilter.GaussianBlur(2)).resize((size, size), Image.Resampling.LANCZOS)


def scene(size: tuple[int, int], places: Sequence[tuple[int, int, int]], background: int = 140) -> np.ndarray:
    """RGB picture of (width, height) with a drawn face of `side` px at each (left, top, side)."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    ground = np.stack([background + x * 30 // width, background + y * 40 // height, np.full_like(x, background)], -1)
    picture = Image.fromarray(ground.astype(np.uint8))
    for left, top, side in places:
        face = draw_face(side)
        picture.paste(face, (left, top), face)
    return np.array(picture)


def encode(path: Path, frames: Iterable[np.ndarray], *settings, **named) -> Path:
    """`_encode` on a thread of its own: libsvtav1, run by root, makes the thread that opens it real time (SCHED_FIFO
    99), and all that this one would start from then on, a browser for instance, takes the machine from everybody."""
    with ThreadPoolExecutor(1) as own:
        return own.submit(_encode, path, frames, *settings, **named).result()


def _encode(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    fps: int = 25,
    pixel_format: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    tone: bool = False,
    pixel_aspect: Fraction | None = None,
    sound_delay: float = 0.0,
    interlaced: bool = False,
    faststart: bool = False,
) -> Path:
    """Encodes RGB frames; `ticks` are their times in milliseconds when they are not even. `tone`: two seconds of sound
    with a click at one second of its own time, delayed against the picture by `sound_delay` s."""
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w", options={"movflags": "+faststart"} if faststart else {}) as container:
        stream = container.add_stream(codec, rate=fps)
        context = stream.codec_context
        context.height, context.width = first.shape[:2]
        context.pix_fmt, context.options = pixel_format, options or {}
        if pixel_aspect:
            context.sample_aspect_ratio = pixel_aspect
        if ticks is not None:
            context.time_base = Fraction(1, 1000)
        audio = container.add_stream("mp2" if path.suffix == ".mpg" else "aac", rate=48_000) if tone else None
        if audio is not None:
            audio.codec_context.layout = "stereo"
            _encode_click(container, audio, sound_delay)
        for i, rgb in enumerate([first, *frames]):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)
            frame = _as_fields(frame) if interlaced else frame
            if ticks is not None:
                frame.pts, frame.time_base = ticks[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _as_fields(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame marked as two fields, top one first."""
    graph = linear_graph(frame.width, frame.height, frame.format.name, Fraction(1, 25), [("setfield", "tff")])
    graph.push(frame)
    marked = graph.pull()
    marked.pts = None
    return marked


def _encode_click(container, stream, delay: float) -> None:
    samples = np.zeros((2, 96_000), np.float32)
    samples[:, 48_000:48_096] = 0.9
    step = stream.codec_context.frame_size or 1152
    for at in range(0, samples.shape[1], step):
        chunk = np.ascontiguousarray(samples[:, at : at + step])
        if stream.codec_context.name == "mp2":
            frame = av.AudioFrame.from_ndarray((chunk * 32767).astype(np.int16).T.reshape(1, -1), "s16", "stereo")
        else:
            frame = av.AudioFrame.from_ndarray(chunk, "fltp", "stereo")
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        frame.pts = at + round(delay * 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Writes a display matrix (a, b, c, d, each -1, 0 or 1) into the video track header of an MP4."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, id, duration, layer, volume come first
    a, b, c, d = (v << 16 for v in matrix)
    values = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
    data[at : at + 36] = values.tobytes()
    path.write_bytes(data)
    return path


def counting(count: int, size: tuple[int, int] = (128, 96), step: int = 4) -> Iterable[np.ndarray]:
    """Flat pictures of (width, height) whose grey level 20 + step * i tells their number."""
    for i in range(count):
        yield np.full((size[1], size[0], 3), 20 + step * i, np.uint8)


def numbers(frames: Iterable[np.ndarray], step: int = 4) -> list[int]:
    """Numbers of the pictures that `counting` made."""
    return [round((float(np.median(frame)) - 20) / step) for frame in frames]


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    return SimpleNamespace(scene=scene, encode=encode, turn=turn, counting=counting, numbers=numbers)


@pytest.fixture(scope="session")
def face_clip(tmp_path_factory) -> Path:
    """Four seconds of a drawn face moving a little in a 512 px square, with a click in the sound at 1 s."""
    frames = (scene((512, 512), [(56 + i // 10, 60, 400)]) for i in range(100))
    return encode(tmp_path_factory.mktemp("clip") / "face.mp4", frames, tone=True)
