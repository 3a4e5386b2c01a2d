"""Stage 7: an avatar and a motion source to a video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from avatar.capture import clip_sha256 as sha256_of
from avatar.drive.edits import read_edit, read_head_motion, read_track_file
from avatar.drive.pieces import Pieces
from avatar.drive.refined import refined_motion
from avatar.drive.sources import (
    FRAME_RATES,
    evened,
    file_source,
    measured_sound,
    resampled,
    speech_source,
    transferred,
    video_source,
)
from avatar.errors import UserError
from avatar.media import speech_blocks
from avatar.model import Avatar
from avatar.progress import SILENT, Reporter
from avatar.speech import SpeechControls, parse_emotion, style_of
from avatar.speech.motion import split
from avatar.types import Motion

__all__ = ["drive", "file_source", "resampled", "speech_source", "transferred", "video_source"]

BLOCK_FRAMES = 50
"""Frames drawn at a time of a motion that is known whole."""


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
    speech_encoder: Path | None = None,
    size: int | None = None,
    fps: float | None = None,
    refine: bool = True,
    resume: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes a video of an avatar driven by exactly one of `speech`, `track` and `video`; returns its path.

    `pose`, `gain`, `emotion`, `style`, `blink`, `gaze` and `seed` are about speech (`speech.SpeechControls`; `pose` may
    also be the path of a track with head rotation), as is `speech_encoder` (`Avatar.stream`); `edit` goes with every
    source.

    With `video`, `refine` also fits the motion to the video's frames by analysis by synthesis where that pays.
    What an interrupted run has finished stays beside `output` (see `drive.pieces`); `resume` goes on there.

    Raises:
        UserError: no or several sources, something unreadable, a setting out of range, an output that cannot be
            written, or an interrupted run of it that is not to be resumed or was of something else.
    """
    sources = [s for s in (speech, track, video) if s is not None]
    if len(sources) != 1:
        raise UserError("Name exactly one source of motion: a sound file, --track FILE or --video FILE.")
    if fps is not None and not FRAME_RATES[0] <= fps <= FRAME_RATES[1]:
        raise UserError(f"--fps {fps:g} is out of range; choose {FRAME_RATES[0]:g} to {FRAME_RATES[1]:g}.")
    output = output or Path(f"{sources[0].stem}.{avatar.stem}.mp4")
    if output.exists() and any(output.samefile(p) for p in (avatar, *sources) if p.exists()):
        raise UserError(f"The output {output} is one of the inputs; name another file with -o.")
    if output.suffix.lower() != ".mp4":
        raise UserError(f"The output {output} must end in .mp4.")
    if output.is_dir():
        raise UserError(f"The output {output} is a folder; name a file with -o.")
    if speech is None:
        _only_with_speech(pose, gain, emotion, style, blink, gaze, speech_encoder)
    someone = Avatar.load(avatar)
    changes: list[Callable[[Motion], Motion]] = []
    sound: Iterable[np.ndarray] | None
    if speech is not None:
        from_file = pose not in ("generated", "fixed")
        if from_file:
            changes.append(read_head_motion(_pose_path(pose), someone.person, gaze).apply)
        controls = SpeechControls(
            gain, "fixed" if from_file else pose, blink, gaze, parse_emotion(emotion),
            None if style is None else style_of(read_track_file(style)[1]), seed,
        )  # fmt: skip
        rate, stream = fps or someone.metadata.fps, someone.stream(fps, controls, speech_encoder)
        known = measured_sound(speech, stream.n_mels)
        stream.expect(known.level)
        blocks: Iterable[Motion] = speech_source(stream, speech)
        total, sound = known.frames(rate), speech_blocks(speech)
    else:
        motion, audio = _whole(someone, track, video, fps, refine, reporter)
        rate, total, sound = fps or _mean_rate(motion.times), len(motion.times), None if audio is None else [audio]
        blocks = split(motion, BLOCK_FRAMES)
    if edit is not None:
        changes.append(read_edit(edit).apply)
    files = {"avatar": avatar, "source": sources[0], "style": style, "edit": edit,
             "pose": Path(pose) if speech is not None and from_file else None}  # fmt: skip
    note: dict[str, object] = {name: None if path is None else sha256_of(path) for name, path in files.items()}
    note |= {"head motion": pose, "gain": gain, "emotion": emotion, "blink": blink, "gaze": gaze, "seed": seed}
    note |= {"size": size, "refine": refine and video is not None, "speech encoder": speech_encoder is not None}
    with Pieces(output, rate, note, resume) as pieces:
        _draw(someone, blocks, changes, pieces, size, total, reporter)
        pieces.join(sound)
    return output


def _only_with_speech(
    pose: str, gain: float, emotion: str, style: Path | None, blink: bool, gaze: str, speech_encoder: Path | None
) -> None:
    usual = SpeechControls()
    given = {
        "--pose": pose != usual.pose, "--gain": gain != usual.gain, "--emotion": bool(emotion),
        "--style": style is not None, "--no-blink": not blink, "--gaze": gaze != usual.gaze,
        "--speech-encoder": speech_encoder is not None,
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
        motion = file_source(avatar, track, fps)
        return (evened(motion) if fps is None else motion), None
    assert video is not None
    from avatar.track.clip import tracked_clip  # needs mediapipe; the other sources do not

    with tracked_clip(video, avatar.camera.width, None, reporter) as (capture, tracked):
        motion = video_source(avatar, tracked, None)
        if refine:
            motion = refined_motion(avatar, motion, capture, tracked, reporter)
        return (evened(motion) if fps is None else resampled(motion, fps)), capture.audio


def _mean_rate(times: np.ndarray) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 25.0


def _draw(
    avatar: Avatar,
    blocks: Iterable[Motion],
    changes: list[Callable[[Motion], Motion]],
    pieces: Pieces,
    size: int | None,
    total: int | None,
    reporter: Reporter,
) -> None:
    """Draws and writes piece by piece; nothing piles up, however long the motion."""
    with reporter.bar("drawing", total) as bar:
        for motion in blocks:
            count = len(motion.times)
            if count == 0:
                continue
            if pieces.has(count):
                pieces.skip(count)
                bar.advance(count)
                continue
            for change in changes:
                motion = avatar.with_codes_along(motion, change(motion))
            for picture in avatar.frames(motion, size):
                pieces.add(picture)
                bar.advance()
            pieces.end_block()
