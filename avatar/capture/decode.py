"""Decodes a clip to upright RGB frames with their true times, cropped and scaled on the way.

Colour follows the file's own tags. Where it has none, BT.709 for pictures of 720 lines and more, BT.601 below, limited
range: what players do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from avatar.capture.probe import ClipInfo, video_stream
from avatar.media import SCALER_FLAGS, linear_graph, open_media, tolerant_frames
from avatar.types import Crop

_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""libswscale's names of the matrix codes of ITU-T H.273 table 4."""
_HD_LINES = 720
_SAMPLE_SIDE = 960
"""Longest side of the pictures in which faces are looked for; the detectors shrink them to 192 px anyway."""


@dataclass
class DecodeLog:
    """What went wrong while decoding."""

    failures: list[str] = field(default_factory=list)
    """One entry per damaged place."""
    corrupt: int = 0
    """Frames the decoder could only guess."""
    repeated: int = 0
    """Frames with the time of the one before them."""


@dataclass(frozen=True)
class Frame:
    """A decoded frame. `seconds` is on the file's own clock."""

    seconds: float
    rgb: UInt8[np.ndarray, "H W 3"]


def decode_cropped(info: ClipInfo, crop: Crop, log: DecodeLog) -> Iterator[Frame]:
    """Every frame of the clip, cut and scaled to `crop.size`, in strictly increasing time; streaming."""
    box = _coded_box(info, crop)
    with open_media(info.path, "clip") as container:
        stream = video_stream(container)
        yield from _convert(_timed(container, stream, info, log), info, box, (crop.size, crop.size))


def sample_frames(info: ClipInfo, count: int) -> list[Frame]:
    """About `count` whole frames spread over the clip, upright, at most _SAMPLE_SIDE px long.

    Keyframes near the wanted times are taken where there are any, because they need no other frame decoded."""
    ticks = _sample_ticks(info, count)
    samples = _samples_at(info, ticks, jump=True)
    if len(samples) * 2 < len(ticks):  # some formats, MPEG-TS for one, cannot be entered at every keyframe
        samples = _samples_at(info, ticks, jump=False)
    return samples


def _samples_at(info: ClipInfo, ticks: list[int], jump: bool) -> list[Frame]:
    coded_size = info.orientation.size(*_fit(info.upright_size, _SAMPLE_SIDE))
    with open_media(info.path, "clip") as container:
        stream = video_stream(container)
        frames = _frames_at(container, stream, info, ticks, jump)
        return list(_convert(frames, info, (0, 0, *info.coded_size), coded_size))


def aligned_crop(info: ClipInfo, crop: Crop) -> Crop:
    """The crop moved to where it can be cut without interpolation: even pixels of the coded picture."""
    left, top, width, height = info.orientation.upright_box(
        _even_box(_to_coded(info, (crop.left, crop.top, crop.side, crop.side)), info.coded_size), *_oriented(info)
    )
    scale_x, scale_y = (u / o for u, o in zip(info.upright_size, _oriented(info), strict=True))
    side = round((width * scale_x + height * scale_y) / 2)
    return Crop(round(left * scale_x), round(top * scale_y), side, min(crop.size, side - side % 2))


def _oriented(info: ClipInfo) -> tuple[int, int]:
    """Size of the coded picture once turned upright, pixels still as coded."""
    return info.orientation.size(*info.coded_size)


def _to_coded(info: ClipInfo, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A box of the upright picture in pixels of the coded one."""
    width, height = _oriented(info)
    sx, sy = width / info.upright_size[0], height / info.upright_size[1]
    scaled = (round(box[0] * sx), round(box[1] * sy), round(box[2] * sx), round(box[3] * sy))
    return info.orientation.coded_box(scaled, width, height)


def _coded_box(info: ClipInfo, crop: Crop) -> tuple[int, int, int, int]:
    return _even_box(_to_coded(info, (crop.left, crop.top, crop.side, crop.side)), info.coded_size)


def _even_box(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box on even pixels inside the picture: chroma of 4:2:0 has one sample per 2 x 2 pixels."""
    width, height = (min(side, full) for side, full in zip(box[2:], size, strict=True))
    width, height = width - width % 2, height - height % 2
    left = min(max(box[0], 0), size[0] - width)
    top = min(max(box[1], 0), size[1] - height)
    return left - left % 2, top - top % 2, width, height


def _fit(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))


# ------------------------------------------------------------------------------------------------------- time


def _timed(container: Any, stream: Any, info: ClipInfo, log: DecodeLog) -> Iterator[Any]:
    """Sound frames with strictly increasing timestamps, in ticks of `info.time_base`."""
    last: int | None = None
    usual = max(1, round(1 / (info.fps * info.time_base))) if info.fps > 0 else 1
    for frame in tolerant_frames(container, stream, log.failures):
        if frame.is_corrupt:
            log.corrupt += 1
            continue
        if frame.pts is None:
            frame.pts = frame.dts if frame.dts is not None else (0 if last is None else last + usual)
        if last is not None and frame.pts <= last:
            log.repeated += 1
            continue
        last = frame.pts
        yield frame


def _sample_ticks(info: ClipInfo, count: int) -> list[int]:
    """Timestamps to look at: the middles of `count` equal parts, or the keyframe of that part nearest to it."""
    part = info.duration / count / float(info.time_base)
    ticks = [round(info.first_tick + (i + 0.5) * part) for i in range(count)]
    return sorted({_nearest(info.keyframes, tick, part / 2) for tick in ticks})


def _nearest(keyframes: Sequence[int], tick: int, reach: float) -> int:
    at = bisect_left(keyframes, tick)
    near = [k for k in keyframes[max(0, at - 1) : at + 1] if abs(k - tick) <= reach]
    return min(near, key=lambda k: abs(k - tick)) if near else tick


def _frames_at(container: Any, stream: Any, info: ClipInfo, ticks: list[int], jump: bool) -> Iterator[Any]:
    """For each of the increasing ticks the first frame from there on; `jump` skips to the keyframes before them."""
    from av.error import FFmpegError

    frames, now = _timed(container, stream, info, DecodeLog()), info.first_tick
    for tick in ticks:
        at = bisect_left(info.keyframes, tick + 1) - 1
        if jump and at >= 0 and info.keyframes[at] > now:
            with suppress(FFmpegError):
                container.seek(info.keyframes[at], stream=stream)
                frames = _timed(container, stream, info, DecodeLog())
        frame = next((f for f in frames if f.pts >= tick), None)
        if frame is None:
            return
        now = frame.pts
        yield frame


# ------------------------------------------------------------------------------------------------------- pictures


def _convert(
    frames: Iterator[Any], info: ClipInfo, box: tuple[int, int, int, int], size: tuple[int, int]
) -> Iterator[Frame]:
    """Cuts `box` out of coded frames, scales it to `size` (both before orientation) and turns it upright in RGB."""
    graph, kind = None, None
    for frame in frames:
        new_kind = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if graph is None or new_kind != kind:  # a stream may change its size or colours in the middle
            yield from _drain(graph, info, end=True)
            graph, kind = _graph(frame, info, box, size), new_kind
        frame.time_base = info.time_base
        graph.push(frame)
        yield from _drain(graph, info)
    yield from _drain(graph, info, end=True)


def _drain(graph: Any, info: ClipInfo, end: bool = False) -> Iterator[Frame]:
    """What the filter graph has ready; with `end` also what it was holding back."""
    from av.error import BlockingIOError, EOFError

    if graph is None:
        return
    if end:
        graph.push(None)
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        rgb = info.orientation.upright(frame.to_ndarray())
        # The frame's own time base: deinterlacing counts in half ticks.
        yield Frame(float(frame.pts * frame.time_base), np.ascontiguousarray(rgb))


def _graph(frame: Any, info: ClipInfo, box: tuple[int, int, int, int], size: tuple[int, int]) -> Any:
    steps = []
    if info.interlaced:
        steps.append(("bwdif", "mode=send_frame:deint=interlaced"))
    if (frame.width, frame.height) != info.coded_size:
        steps.append(("scale", f"{info.coded_size[0]}:{info.coded_size[1]}:flags={SCALER_FLAGS}"))
    left, top, width, height = box
    steps.append(("crop", f"{width}:{height}:{left}:{top}:exact=1"))
    colours = "" if frame.format.is_rgb else f":in_color_matrix={_matrix(frame)}:in_range={_range(frame)}"
    steps.append(("scale", f"{size[0]}:{size[1]}:flags={SCALER_FLAGS}{colours}:out_range=pc"))
    steps.append(("format", "rgb24"))
    return linear_graph(frame.width, frame.height, frame.format.name, Fraction(info.time_base), steps)


def _matrix(frame: Any) -> str:
    """libswscale's name of the frame's YUV matrix."""
    return _MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= _HD_LINES else "bt601")


def _range(frame: Any) -> str:
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    return "pc" if full else "tv"
