"""Stage 7: an avatar and a motion source to a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from avatar.drive.edits import read_edit, read_head_motion, read_track_file
from avatar.drive.refined import refined_motion
from avatar.drive.sources import file_source, resampled, speech_source, transferred, video_source
from avatar.errors import UserError
from avatar.media import VideoWriter, sound_seconds
from avatar.model import Avatar
from avatar.progress import SILENT, Reporter
from avatar.speech import SpeechControls, parse_emotion, style_of
from avatar.types import Motion

__all__ = ["drive", "file_source", "resampled", "speech_source", "transferred", "video_source"]

Blocks = Iterable[tuple[Motion, np.ndarray | None]]
"""Pieces of a motion, one after another, each with the sound that goes ahead of it."""


def drive(
    avatar: Path,
    speech: Path | None = None,
    output: Path | None = None,
    track: Path | None = None,
    video: Path | None = None,
    pose: str = "generated",
    gain: float = 1.0,
    emotion: str = "",
    style: Path | None = None,
    edit: Path | None = None,
    blink: bool = True,
    gaze: str = "generated",
    seed: int = 0,
    size: int | None = None,
    fps: float | None = None,
    refine: bool = True,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes a video of an avatar driven by exactly one of `speech`, `track` and `video`; returns its path.

    `pose`, `gain`, `emotion`, `style`, `blink`, `gaze` and `seed` are about speech (`speech.SpeechControls`; `pose` may
    also be the path of a track with head rotation); `edit` goes with every source.

    With `video`, `refine` also fits the motion to the video's frames by analysis by synthesis where that pays.

    Raises:
        UserError: no or several sources, something unreadable, a setting out of range, or an output that cannot be
            written.
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
    changes: list[Callable[[Motion], Motion]] = []
    if speech is None:
        _only_with_speech(pose, gain, emotion, style, blink, gaze)
    someone = Avatar.load(avatar)
    if speech is not None:
        from_file = pose not in ("generated", "fixed")
        if from_file:
            changes.append(read_head_motion(_pose_path(pose), someone.person).apply)
        controls = SpeechControls(
            gain, "fixed" if from_file else pose, blink, gaze, parse_emotion(emotion),
            None if style is None else style_of(read_track_file(style)[1]), seed,
        )  # fmt: skip
        rate = fps or someone.metadata.fps
        blocks: Blocks = speech_source(someone.stream(fps, controls), speech)
        seconds = sound_seconds(speech)
        total = None if seconds is None else round(seconds * rate)
    else:
        motion, audio = _whole(someone, track, video, fps, refine, reporter)
        rate, blocks, total = fps or _mean_rate(motion.times), [(motion, audio)], len(motion.times)
    if edit is not None:
        changes.append(read_edit(edit).apply)
    _write(someone, blocks, changes, output, rate, size, total, reporter)
    return output


def _only_with_speech(pose: str, gain: float, emotion: str, style: Path | None, blink: bool, gaze: str) -> None:
    usual = SpeechControls()
    given = {
        "--pose": pose != usual.pose, "--gain": gain != usual.gain, "--emotion": bool(emotion),
        "--style": style is not None, "--no-blink": not blink, "--gaze": gaze != usual.gaze,
    }  # fmt: skip
    wrong = [name for name, here in given.items() if here]
    if wrong:
        raise UserError(
            f"{wrong[0]} changes motion that is made from speech; it has no meaning with --track or --video."
        )


def _pose_path(pose: str) -> Path:
    path = Path(pose)
    if not path.is_file():
        raise UserError(
            f"There is no head motion '{pose}'; --pose takes generated, fixed, or a track file (CSV, JSON)."
        )
    return path


def _whole(
    avatar: Avatar, track: Path | None, video: Path | None, fps: float | None, refine: bool, reporter: Reporter
) -> tuple[Motion, np.ndarray | None]:
    if track is not None:
        return file_source(avatar, track, fps), None
    assert video is not None
    from avatar.track.clip import tracked_clip  # needs mediapipe; the other sources do not

    with tracked_clip(video, avatar.camera.width, None, reporter) as (capture, tracked):
        motion = video_source(avatar, tracked, None)
        if refine:
            motion = refined_motion(avatar, motion, capture, tracked, reporter)
        return (motion if fps is None else resampled(motion, fps)), capture.audio


def _mean_rate(times: np.ndarray) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 25.0


def _write(
    avatar: Avatar,
    blocks: Blocks,
    changes: list[Callable[[Motion], Motion]],
    output: Path,
    rate: float,
    size: int | None,
    total: int | None,
    reporter: Reporter,
) -> None:
    """Draws and writes piece by piece; nothing piles up, however long the motion."""
    writer: VideoWriter | None = None
    with reporter.bar("drawing", total) as bar:
        try:
            for motion, sound in blocks:
                if writer is None:
                    writer = VideoWriter(output, rate, sound)
                elif sound is not None:
                    writer.add_sound(sound)
                for change in changes:
                    motion = change(motion)
                for picture in avatar.frames(motion, size) if len(motion.times) else ():
                    writer.add(picture)
                    bar.advance()
            assert writer is not None
            writer.close()
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
