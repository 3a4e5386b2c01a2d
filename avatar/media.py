"""Reading sound from any file and writing MP4 video, both with PyAV; shared by capture, evaluation and driving.

Colour: a writer and a reader that disagree about the YUV matrix shift every colour a little, which costs decibels in
every score. Video is therefore written as limited-range BT.709 and tagged so; `capture.decode` obeys the tags.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError, one_line
from avatar.files import replacing

SCALER_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
"""libswscale flags of every conversion: bicubic widens its kernel when shrinking, so it does not alias, and the chroma
flags interpolate chroma instead of repeating it (the default), which matters at lip and eye edges."""

AVCOL_BT709 = 1
"""Code of BT.709 for matrix, primaries and transfer alike (ITU-T H.273, tables 2-4)."""
AVCOL_RANGE_LIMITED = 1

_GAP_SECONDS = 0.1
"""Jumps of sound timestamps below this are rounding or clock drift; above, sound is really missing."""
_TICKS_PER_SECOND = 90_000
"""Clock of frames written with their own times: the MPEG system clock, exact for all usual frame rates."""
_VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov")
_AUDIO_LEAD_SECONDS = 0.5
"""How far sound runs ahead of the picture while writing, so that the file is interleaved and nothing piles up."""
_TEXT_DEMUXERS = frozenset({"tty", "bin", "xbin", "adf", "idf"})
"""FFmpeg "plays" text files as ANSI art; nobody means that."""


def open_media(path: Path, what: str) -> Any:
    """Opens a media file for reading; `what` names it in messages ('clip', 'sound').

    Returns a PyAV input container. Raises UserError where there is no such file or it is no media file."""
    import av
    from av.error import FFmpegError

    if not path.exists():
        raise UserError(f"There is no file {path}; check the path of the {what}.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the path of a {what} file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); give another {what} file.")
    try:
        # The scheme keeps names with a colon from being taken for a protocol. Odd bytes in titles must not stop us.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: permission denied.") from error
    except (FFmpegError, OSError) as error:
        raise UserError(
            f"{path} is not a readable {what}: it is no media file, or its recording was cut off before the file was"
            f" closed ({reason(error)})."
        ) from error
    if container.format.name in _TEXT_DEMUXERS:
        container.close()
        raise UserError(f"{path} is a text file, not a {what}.")
    return container


def reason(error: BaseException) -> str:
    """The system's or FFmpeg's own words without number and path."""
    return getattr(error, "strerror", None) or one_line(error)


# ------------------------------------------------------------------------------------------------------- reading sound


def read_speech(path: Path) -> Float32[np.ndarray, " S"]:
    """The sound of any audio or video file as mono at SAMPLE_RATE in -1..1, from where the sound starts.

    Raises UserError for a missing file, a file without sound, undecodable or empty sound, or samples that are not
    numbers."""
    path = Path(path)
    speech = decode_sound(path, start_seconds=None)
    if speech is None:
        raise UserError(f"{path} has no sound track; give a file with speech in it.")
    if len(speech) == 0:
        raise UserError(f"{path} has a sound track without any readable sound; give another recording.")
    return _checked_speech(speech, path)


def speech_blocks(path: Path) -> Iterator[Float32[np.ndarray, " S"]]:
    """`read_speech` piece by piece, in constant memory whatever the length of the sound.

    Raises UserError, while iterating, for the same reasons."""
    path, some = Path(path), False
    with open_media(path, "sound") as container:
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            raise UserError(f"{path} has no sound track; give a file with speech in it.")
        stream.thread_type = "AUTO"
        timeline = _SoundTimeline(None)
        for frame in tolerant_frames(container, stream):
            timeline.add(frame)
            if timeline.waiting > SAMPLE_RATE:
                some = True
                yield _checked_speech(timeline.take(), path)
        rest = timeline.finish()
    if len(rest) == 0 and not some:
        raise UserError(f"{path} has a sound track without any readable sound; give another recording.")
    yield _checked_speech(rest, path)


def sound_seconds(path: Path) -> float | None:
    """How long a media file says it is; None where it does not say. Raises UserError where it is no media file."""
    with open_media(path, "sound") as container:
        return None if container.duration is None else container.duration / 1_000_000  # AV_TIME_BASE


def _checked_speech(speech: Float32[np.ndarray, " S"], path: Path) -> Float32[np.ndarray, " S"]:
    if not np.isfinite(speech).all():
        raise UserError(f"{path} holds samples that are not numbers (NaN or infinite); export the sound again.")
    return np.clip(speech, -1, 1)


def decode_sound(path: Path, start_seconds: float | None) -> Float32[np.ndarray, " S"] | None:
    """Mono sound at SAMPLE_RATE of the file's best sound stream; None without one.

    `start_seconds` is the time on the file's own clock of sample 0: earlier sound is cut off, a later start is filled
    with silence; None takes sound from its first sample. Holes in the stream become silence, damaged packets are
    skipped. Not clipped, and not-a-number samples of float files are passed through."""
    with open_media(path, "sound") as container:
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            return None
        stream.thread_type = "AUTO"
        timeline = _SoundTimeline(start_seconds)
        for frame in tolerant_frames(container, stream):
            timeline.add(frame)
        return timeline.finish()


def tolerant_frames(container: Any, stream: Any, failures: list[str] | None = None) -> Iterator[Any]:
    """Decoded frames of a stream in display order, passing over damaged packets and a broken end of the file.

    What goes wrong is appended to `failures`, one entry per damaged place."""
    from av.error import FFmpegError

    failures = [] if failures is None else failures
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError as error:
            failures.append(one_line(error))
            break
        with _recorded(FFmpegError, failures):
            yield from packet.decode()
    with _recorded(FFmpegError, failures):
        yield from stream.codec_context.decode(None)


class _recorded:
    """Suppresses errors of a kind and writes them down."""

    def __init__(self, kind: type[Exception], failures: list[str]) -> None:
        self._kind, self._failures = kind, failures

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, self._kind):
            return False
        self._failures.append(one_line(error))
        return True


class _SoundTimeline:
    """Resamples decoded sound and lays it out on the clock: silence where it is missing, cut where it is too early."""

    def __init__(self, start_seconds: float | None) -> None:
        self._start = start_seconds
        self._chunks: list[np.ndarray] = []
        self._resampler: Any = None
        self._kind: tuple[Any, ...] = ()
        self._started = False
        self._seconds = 0.0  # sound laid out so far, counted at the input so that resampler delay does not matter
        self._cut = 0  # samples still to be dropped at the front

    def add(self, frame: Any) -> None:
        time = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if time is not None:
            self._reach(time)
        self._resample(frame)
        self._seconds += frame.samples / frame.sample_rate

    def finish(self) -> np.ndarray:
        self._flush()
        return self.take()

    @property
    def waiting(self) -> int:
        """Samples that `take` would give."""
        return sum(map(len, self._chunks)) - self._cut

    def take(self) -> np.ndarray:
        """What was laid out since the last time."""
        samples = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)
        cut = min(self._cut, len(samples))
        self._chunks, self._cut = [], self._cut - cut
        return np.ascontiguousarray(samples[cut:], dtype=np.float32)

    def _reach(self, time: float) -> None:
        """Fills up with silence until `time`, if sound is missing there."""
        first, self._started = not self._started, True
        if self._start is None:
            self._start = time
        gap = time - self._start - self._seconds
        if first and gap < 0:
            self._cut = round(-gap * SAMPLE_RATE)
            self._start = time
        elif gap > (0 if first else _GAP_SECONDS):
            self._flush()
            self._chunks.append(np.zeros(round(gap * SAMPLE_RATE), np.float32))
            self._seconds += gap

    def _resample(self, frame: Any) -> None:
        from av import AudioResampler

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:  # some broadcasts change the layout in the middle
            self._flush()
            self._resampler, self._kind = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE), kind
        frame.pts = None  # the resampler insists on gapless timestamps; time is kept here
        self._keep(self._resampler.resample(frame))

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(self._resampler.resample(None))
        self._resampler, self._kind = None, ()

    def _keep(self, frames: Iterable[Any]) -> None:
        self._chunks.extend(frame.to_ndarray().reshape(-1) for frame in frames if frame.samples)


# ------------------------------------------------------------------------------------------------------- writing video


class VideoWriter:
    """Writes H.264 + AAC MP4 frame by frame; the file appears under its name only when it is whole.

        with VideoWriter(path, fps=25, audio=speech) as writer:
            for frame in frames:
                writer.add(frame)

    `fps` is the constant frame rate, or None when each frame comes with its own time in seconds. `audio` is mono
    float32 at SAMPLE_RATE, sample 0 at the first frame.
    `crf` is x264's quality (lower is better, 18 hardly visible).
    Frames of odd size get their last row or column repeated, because 4:2:0 video has even sides. Leaving the `with`
    by an exception removes what was written. Raises UserError where the file cannot be written."""

    def __init__(
        self,
        path: Path,
        fps: Fraction | float | int | None,
        audio: Float32[np.ndarray, " S"] | None = None,
        crf: int = 18,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _VIDEO_SUFFIXES:
            raise UserError(f"Cannot write video to {self.path}: choose a name that ends in .mp4.")
        if self.path.is_dir():
            raise UserError(f"Cannot write video to {self.path}: it is a folder; add a file name.")
        self._partial = self.path.with_name(f".{self.path.stem}.partial-{os.getpid()}.mp4")
        self._rate = None if fps is None else _frame_rate(fps)
        self._audio = audio
        self._crf = crf
        self._container: Any = None
        self._video: Any = None
        self._sound: _SoundTrack | None = None
        self._converter: Any = None
        self._shape: tuple[int, ...] = ()
        self._last_tick = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def add(self, frame: UInt8[np.ndarray, "H W 3"], time: float | int | None = None) -> None:
        """Appends an RGB frame; `time` in seconds, increasing, is needed when the writer has no `fps`."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame must be uint8 of shape (H, W, 3), not {frame.dtype} {frame.shape}")
        if (time is None) == (self._rate is None):
            raise ValueError("give either a constant fps or a time with every frame")
        with self._sentences():
            if self._container is None:
                self._open(frame)
            if frame.shape != self._shape:
                raise ValueError(f"frame {frame.shape} differs from the first one {self._shape}")
            self._encode(frame, time)

    def close(self) -> None:
        """Finishes the file and moves it to its name. Raises UserError when no frame was added."""
        if self._container is None:
            raise UserError(f"There is no frame to write to {self.path}.")
        with self._sentences():
            self._container.mux(self._video.encode(None))
            if self._sound is not None:
                self._sound.finish()
            container, self._container = self._container, None
            container.close()
            self._partial.replace(self.path)

    def abandon(self) -> None:
        """Removes what was written so far."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(Exception):  # closing a file that could not be written fails once more
                container.close()
        with suppress(OSError):
            self._partial.unlink()

    def _sentences(self) -> _WriteErrors:
        return _WriteErrors(self)

    def _open(self, frame: np.ndarray) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._shape = frame.shape
        height, width = (side + side % 2 for side in frame.shape[:2])
        self._container = av.open(f"file:{self._partial}", "w", format="mp4", options={"movflags": "+faststart"})
        self._video = self._container.add_stream(_h264_encoder(), rate=self._rate or 25)
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        options = {"crf": str(self._crf), "preset": "fast"}
        if context.codec.name == "libx264":
            # Without this the same pictures are not always coded the same: its macroblock tree reads beyond widths that
            # are no multiple of 128 px (seen at 16 to 208 px).
            options["x264-params"] = "cpu-independent=1"
        context.options = options
        context.color_range = AVCOL_RANGE_LIMITED
        context.colorspace = context.color_primaries = context.color_trc = AVCOL_BT709
        self._tick = Fraction(1, _TICKS_PER_SECOND) if self._rate is None else 1 / self._rate
        context.time_base = self._tick
        self._converter = _YuvConverter(width, height)
        if self._audio is not None:
            self._sound = _SoundTrack(self._container, [self._audio])

    def _encode(self, frame: np.ndarray, time: float | None) -> None:
        tick = self._last_tick + 1 if time is None else round(time / self._tick)
        if tick <= self._last_tick:
            raise ValueError(f"frame times must increase: {time} s follows {float(self._last_tick * self._tick)} s")
        self._last_tick = tick
        picture = self._converter.convert(frame)
        picture.pts, picture.time_base = tick, self._tick
        self._container.mux(self._video.encode(picture))
        if self._sound is not None:
            self._sound.feed(float(tick * self._tick) + _AUDIO_LEAD_SECONDS)


class _SoundTrack:
    """The sound stream of a container that is written: encoded bit by bit, as far as the picture needs it."""

    def __init__(self, container: Any, pieces: Iterable[Float32[np.ndarray, " S"]]) -> None:
        self._container = container
        self._stream = container.add_stream("aac", rate=SAMPLE_RATE)
        self._stream.codec_context.layout = "mono"
        self._stream.codec_context.bit_rate = 64_000
        self._pieces = iter(pieces)
        self._ended = False
        self._waiting = np.zeros(0, np.float32)
        self._done = 0  # samples written; `_waiting` begins there

    def feed(self, until_seconds: float) -> None:
        """Encodes the sound up to a time of the video."""
        step = self._stream.codec_context.frame_size or 1024
        while self._done < until_seconds * SAMPLE_RATE:
            while len(self._waiting) < step and not self._ended:
                piece = next(self._pieces, None)
                self._ended = piece is None
                if piece is not None:
                    self._waiting = np.concatenate([self._waiting, _playable(piece)])
            chunk, self._waiting = self._waiting[:step], self._waiting[step:]
            if len(chunk) == 0:
                break
            self._encode(chunk)

    def finish(self) -> None:
        """Encodes what is left."""
        self.feed(float("inf"))
        self._container.mux(self._stream.encode(None))

    def _encode(self, chunk: Float32[np.ndarray, " S"]) -> None:
        from av import AudioFrame

        frame = AudioFrame.from_ndarray(chunk[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), self._done
        self._container.mux(self._stream.encode(frame))
        self._done += len(chunk)


def _playable(samples: Float32[np.ndarray, " S"]) -> Float32[np.ndarray, " S"]:
    return np.clip(np.nan_to_num(samples), -1, 1).astype(np.float32)


def write_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    fps: Fraction | float | int | None = None,
    times: Iterable[float | int] | None = None,
    audio: Float32[np.ndarray, " S"] | None = None,
    crf: int = 18,
) -> None:
    """Writes a stream of RGB frames to an MP4 with either a constant `fps` or each frame's own time in seconds.

    One frame is in memory at a time. See `VideoWriter` for `audio`, `crf` and errors."""
    if (fps is None) == (times is None):
        raise ValueError("give either fps or times")
    with VideoWriter(path, fps, None if audio is None or len(audio) == 0 else audio, crf) as writer:
        if times is None:
            for frame in frames:
                writer.add(frame)
        else:
            for frame, time in zip(frames, times, strict=False):
                writer.add(frame, float(time))


def join_videos(
    parts: Sequence[Path], path: Path, fps: Fraction | float | int, sound: Iterable[Float32[np.ndarray, " S"]] | None
) -> None:
    """One MP4 of the pictures of `parts`, one after another, unchanged, with `sound`; whole or not at all.

    Every part was written by `VideoWriter` at the constant `fps` without sound and with pictures of one size. `sound`
    is mono at SAMPLE_RATE, sample 0 at the first frame, in pieces, and is asked for as the pictures need it.

    Raises UserError where the file cannot be written, or a part is damaged or was coded differently."""
    from av.error import FFmpegError

    with replacing(Path(path)) as partial:
        try:
            _join(parts, partial, 1 / _frame_rate(fps), sound)
        except FFmpegError as error:
            raise UserError(f"Cannot write {path} ({reason(error)}); choose another place for the video.") from error


def _join(
    parts: Sequence[Path], partial: Path, tick: Fraction, sound: Iterable[Float32[np.ndarray, " S"]] | None
) -> None:
    import av

    video, track, header, frames = None, None, None, 0
    with av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"}) as output:
        for part in parts:
            with open_media(part, "part") as source:
                stream = source.streams.video[0]
                if video is None:
                    video = output.add_stream_from_template(stream)
                    header = stream.codec_context.extradata
                    track = None if sound is None else _SoundTrack(output, sound)
                elif stream.codec_context.extradata != header:
                    raise UserError(f"{part} was coded differently from the parts before it; remove them all.")
                start = frames
                for packet in source.demux(stream):
                    if packet.dts is None:  # the end
                        continue
                    ticks = [round(t * packet.time_base / tick) + start for t in (packet.pts, packet.dts)]
                    packet.time_base, packet.stream = tick, video
                    packet.pts, packet.dts = ticks
                    packet.duration = 1
                    output.mux(packet)
                    frames += 1
                    if track is not None:
                        track.feed(float(frames * tick) + _AUDIO_LEAD_SECONDS)
        if track is not None:
            track.finish()


class _WriteErrors:
    """Turns what the operating system says while writing into a sentence, and removes the partial file on any error."""

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        from av.error import FFmpegError

        if error is None:
            return
        self._writer.abandon()
        if isinstance(error, (OSError, FFmpegError)):
            raise UserError(
                f"Cannot write {self._writer.path} ({reason(error)}); choose another place for the video."
            ) from error


class _YuvConverter:
    """RGB array -> limited-range BT.709 yuv420p frame, last row and column repeated up to an even size."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        scale = f"flags={SCALER_FLAGS}:out_color_matrix=bt709:out_range=tv"
        self._graph = linear_graph(width, height, "rgb24", Fraction(1, 25), [("scale", scale), ("format", "yuv420p")])

    def convert(self, frame: np.ndarray) -> Any:
        from av import VideoFrame

        pad = (self._height - frame.shape[0], self._width - frame.shape[1])
        if any(pad):
            frame = np.pad(frame, ((0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
        self._graph.push(VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
        picture = self._graph.pull()
        picture.colorspace, picture.color_range = AVCOL_BT709, AVCOL_RANGE_LIMITED
        return picture


def linear_graph(width: int, height: int, pixel_format: str, time_base: Fraction, steps: list[tuple[str, str]]) -> Any:
    """A configured PyAV filter graph: frames of one size and format in, through `steps` (filter, arguments), out."""
    from av.filter import Graph
    from av.video.format import VideoFormat

    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=VideoFormat(pixel_format), time_base=time_base)
    graph.link_nodes(source, *(graph.add(name, args) for name, args in steps), graph.add("buffersink"))
    graph.configure()
    return graph


def _frame_rate(fps: Fraction | float | int) -> Fraction:
    """The rate as the fraction that video uses: 29.97 is 30000/1001."""
    if not 0 < fps < 1000:
        raise ValueError(f"fps must be between 0 and 1000, not {fps}")
    if isinstance(fps, Fraction):
        return fps.limit_denominator(60_000)
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(float(ntsc) - fps) < 1e-3 and round(fps) != fps else Fraction(fps).limit_denominator(1001)


def _h264_encoder() -> str:
    """libx264 where PyAV was built with it, else whatever FFmpeg uses for H.264."""
    import av

    for name in ("libx264", "h264"):
        with suppress(Exception):
            av.codec.Codec(name, "w")
            return name
    raise UserError("This build of PyAV cannot write H.264; install the `av` wheel from PyPI.")
