"""Stage 7: an avatar and a motion source to a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from avatar.drive.refined import refined_track
from avatar.drive.sources import file_source, resampled, speech_source, transferred, video_source
from avatar.errors import UserError
from avatar.media import read_speech, write_video
from avatar.model import Avatar
from avatar.progress import SILENT, Reporter
from avatar.types import Motion

__all__ = ["drive", "file_source", "resampled", "speech_source", "transferred", "video_source"]


def drive(
    avatar: Path,
    speech: Path | None = None,
    output: Path | None = None,
    track: Path | None = None,
    video: Path | None = None,
    pose: str = "generated",
    gain: float = 1.0,
    seed: int = 0,
    size: int | None = None,
    fps: float | None = None,
    refine: bool = True,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes a video of an avatar driven by exactly one of `speech`, `track` and `video`; returns its path.

    With `video`, `refine` also fits the motion to the video's frames by analysis by synthesis where that pays.

    Raises:
        UserError: no or several sources, something unreadable, or an output that cannot be written.
    """
    sources = [s for s in (speech, track, video) if s is not None]
    if len(sources) != 1:
        raise UserError("Name exactly one source of motion: a sound file, --track FILE or --video FILE.")
    if fps is not None and not 1 <= fps <= 240:
        raise UserError(f"--fps {fps:g} is out of range; choose 1 to 240.")
    output = output or Path(f"{sources[0].stem}.{avatar.stem}.mp4")
    if output.exists() and any(output.samefile(p) for p in (avatar, *sources) if p.exists()):
        raise UserError(f"The output {output} is one of the inputs; name another file with -o.")
    if output.suffix.lower() != ".mp4":
        raise UserError(f"The output {output} must end in .mp4.")
    someone = Avatar.load(avatar)
    motion, audio = _motion(someone, speech, track, video, pose, gain, seed, fps, refine, reporter)
    rate = fps or (someone.metadata.fps if speech is not None else _mean_rate(motion.times))
    write_video(output, _counted(someone, motion, size, reporter), rate, audio=audio)
    return output


def _motion(
    avatar: Avatar,
    speech: Path | None,
    track: Path | None,
    video: Path | None,
    pose: str,
    gain: float,
    seed: int,
    fps: float | None,
    refine: bool,
    reporter: Reporter,
) -> tuple[Motion, np.ndarray | None]:
    if speech is not None:
        samples = read_speech(speech)
        return speech_source(avatar, samples, fps or avatar.metadata.fps, pose, gain, seed), samples
    if track is not None:
        return file_source(avatar, track, fps), None
    assert video is not None
    from avatar.track.clip import tracked_clip  # needs mediapipe; the other sources do not

    with tracked_clip(video, avatar.camera.width, None, reporter) as (capture, tracked):
        if refine:
            tracked = refined_track(avatar, capture, tracked, reporter)
        return video_source(avatar, tracked, fps), capture.audio


def _mean_rate(times: np.ndarray) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 25.0


def _counted(avatar: Avatar, motion: Motion, size: int | None, reporter: Reporter) -> Iterator[np.ndarray]:
    with reporter.bar("drawing", len(motion.times)) as bar:
        for picture in avatar.frames(motion, size):
            yield picture
            bar.advance()
