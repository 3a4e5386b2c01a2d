"""Looks at a clip before it is decoded: geometry, how many frames, how long, where it can be entered, is it whole."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from avatar.capture.orient import Orientation, frame_orientation, square_pixel_size
from avatar.errors import UserError, one_line
from avatar.media import open_media, tolerant_frames

_USUAL_RATE = 25
"""Frames per second assumed when a stream says nothing."""
_HDR_TRANSFERS = (16, 18)
"""PQ (SMPTE ST 2084) and HLG (ARIB STD-B67), ITU-T H.273 table 3."""


@dataclass(frozen=True)
class ClipInfo:
    """What the clip's packets and its first frame say."""

    path: Path
    codec: str
    coded_size: tuple[int, int]
    """Width and height of the stored picture."""
    upright_size: tuple[int, int]
    """Width and height as seen: rotated, square pixels."""
    orientation: Orientation
    packets: int
    """Video packets that can be read; about the number of frames."""
    duration: float
    """Seconds of picture that can be read."""
    promised: float
    """Seconds of picture that the file's header promises (0 where it says nothing)."""
    first_tick: int
    """Smallest timestamp, in ticks of `time_base`."""
    keyframes: tuple[int, ...]
    """Timestamps where decoding can start; increasing; empty where the file has no timestamps."""
    time_base: Fraction
    timed: bool
    """False for bare streams without timestamps: `fps` is then only what the stream says of itself."""
    fps: float
    interlaced: bool
    hdr: bool
    damage: str = ""
    """What stopped the reading of packets, empty when the file is whole."""


def video_stream(container: Any) -> Any | None:
    """The stream to decode: FFmpeg's choice among those that are not a cover picture."""
    streams = [s for s in container.streams.video if s.codec_context is not None and not _is_cover(s)]
    best = container.streams.best("video")
    stream = best if best in streams else next(iter(streams), None)
    if stream is not None:
        stream.thread_type = "AUTO"
    return stream


def _is_cover(stream: Any) -> bool:
    """Whether the stream is the cover picture of a sound file (PyAV 14.0 cannot tell)."""
    flags = getattr(stream, "disposition", None)
    return flags is not None and bool(flags & type(flags).attached_pic)


def probe(clip: Path) -> ClipInfo:
    """Reads all packets of the picture (no decoding) and decodes the first frame.

    Raises UserError where the file is missing, is no video, or holds no frame that can be decoded."""
    packets = _scan_packets(clip)
    if not packets.times:
        raise UserError(f"{clip} holds no video frames; record the clip again.")
    frame, codec, pixel_aspect = _first_frame(clip)
    count, first = len(packets.times), min(packets.times)
    span = float((max(packets.times) - first) * packets.time_base)
    fps = (count - 1) / span if span > 0 else 0.0
    coded = (frame.width, frame.height)
    orientation = frame_orientation(frame)
    square = square_pixel_size(*coded, pixel_aspect)
    return ClipInfo(
        path=clip,
        codec=codec,
        coded_size=coded,
        upright_size=orientation.size(*square),
        orientation=orientation,
        packets=count,
        duration=span + (1 / fps if fps > 0 else 0.0),
        promised=packets.promised,
        first_tick=first,
        keyframes=tuple(packets.keyframes),
        time_base=packets.time_base,
        timed=packets.timed,
        fps=fps,
        interlaced=bool(frame.interlaced_frame),
        hdr=int(getattr(frame, "color_trc", 2)) in _HDR_TRANSFERS,
        damage=packets.damage,
    )


@dataclass(frozen=True)
class _Packets:
    """What a pass over the packets tells; timestamps in ticks of `time_base`."""

    times: list[int]
    keyframes: list[int]
    time_base: Fraction
    promised: float
    timed: bool
    damage: str


def _scan_packets(clip: Path) -> _Packets:
    from av.error import FFmpegError

    times: list[int] = []
    keyframes: list[int] = []
    untimed, damage = 0, ""
    with open_media(clip, "clip") as container:
        stream = video_stream(container)
        if stream is None:
            raise UserError(f"{clip} has no picture, only sound; give a video clip of one person.")
        time_base = stream.time_base or Fraction(1, 90_000)
        try:
            for packet in container.demux(stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size == 0 or getattr(packet, "is_discard", False):  # the end, or cut off by an edit list
                    continue
                if stamp is None:
                    untimed += 1
                    continue
                times.append(stamp)
                if packet.is_keyframe:
                    keyframes.append(stamp)
        except FFmpegError as error:
            damage = one_line(error)
        promised = float(stream.duration * time_base) if stream.duration else 0.0
        timed = len(times) > untimed
        if not timed:  # a bare stream without a container counts frames, nothing else
            step = 1 / ((stream.guessed_rate or stream.average_rate or _USUAL_RATE) * time_base)
            times, keyframes = [round(i * step) for i in range(untimed)], []
    return _Packets(times, sorted(keyframes), time_base, promised, timed, damage)


def _first_frame(clip: Path) -> tuple[Any, str, Fraction | None]:
    """The first frame that decodes, the codec's name, the pixels' width over their height."""
    failures: list[str] = []
    with open_media(clip, "clip") as container:
        stream = video_stream(container)
        assert stream is not None  # the packets were just read from it
        for frame in tolerant_frames(container, stream, failures):
            if not frame.is_corrupt:
                return frame, stream.codec_context.name, stream.sample_aspect_ratio
    why = f" ({failures[0]})" if failures else ""
    raise UserError(f"No frame of {clip} can be decoded{why}; the file is damaged, record or copy it again.")
