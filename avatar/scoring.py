"""`avatar eval`: the scores of an avatar file on a clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from avatar.capture import clip_sha256, load_capture
from avatar.config import FitConfig
from avatar.dataset import FrameSet
from avatar.device import resolve_device
from avatar.errors import UserError
from avatar.evaluate.held_out import evaluate
from avatar.evaluate.report import Report, write_json
from avatar.model import Avatar
from avatar.pipeline import new_report
from avatar.progress import Reporter
from avatar.run_folder import RunFolder, load_run
from avatar.speech import load_speech, speech_features
from avatar.track import load_track
from avatar.track.clip import tracked_clip
from avatar.types import Capture, SpeechFeatures, Track


def evaluate_file(
    avatar_path: Path,
    clip: Path,
    save_frames: Path | None,
    json_path: Path | None,
    face_landmarker: Path | None,
    reporter: Reporter,
) -> Report:
    """Scores an avatar file on the held-out part of a clip.

    The run beside the file lends its decoded frames and track if they are of this very clip; otherwise the clip is
    captured and tracked anew.

    Raises:
        UserError: the avatar or the clip cannot be read, or an output cannot be written.
    """
    avatar = Avatar.load(avatar_path)
    sha256 = clip_sha256(clip)
    run = _run_beside(avatar_path, sha256) if face_landmarker is None else None
    with _stages(run, clip, avatar.camera.width, face_landmarker, reporter) as (capture, track, speech):
        frames = FrameSet(capture, track, resolve_device("auto"), speech)
        found = evaluate(avatar, frames, reporter, save_frames)
        run = run or RunFolder(avatar_path.parent, clip.name, sha256, FitConfig(size=capture.size), False, {})
        report = new_report(avatar_path, avatar, found, frames, run)
    if json_path is not None:
        write_json(report, json_path)
    return report


def _run_beside(avatar_path: Path, sha256: str) -> RunFolder | None:
    try:
        run = load_run(avatar_path.parent)
    except UserError:
        return None
    usable = run is not None and run.clip_sha256 == sha256 and run.track.is_file() and run.capture.is_dir()
    return run if usable else None


@contextmanager
def _stages(
    run: RunFolder | None, clip: Path, size: int, face_landmarker: Path | None, reporter: Reporter
) -> Iterator[tuple[Capture, Track, SpeechFeatures | None]]:
    if run is not None:
        speech = load_speech(run.speech) if run.speech.is_file() else None
        yield load_capture(run.capture), load_track(run.track), speech
        return
    with tracked_clip(clip, size, face_landmarker, reporter) as (capture, track):
        yield capture, track, speech_features(capture, track, capture.folder.parent / "speech.safetensors", reporter)


def print_scores(report: Report) -> None:
    """The rows as a table on stdout."""
    keys = ("psnr", "ssim", "head", "mouth_crop", "mouth", "torso", "background", "lmd")
    table = Table(title=f"{report.name}: {report.rows['tracked']['frames']} held-out frames, {report.size} px")
    table.add_column("row")
    for key in keys:
        table.add_column(key, justify="right")
    for row, scores in report.rows.items():
        cells = (scores[key] for key in keys)
        table.add_row(
            row,
            *(
                "-" if v is None else f"{v:.3f}" if k == "ssim" else f"{v:.2f}"
                for k, v in zip(keys, cells, strict=True)
            ),
        )
    Console().print(table)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if key == "ssim" else f"{value:.2f}"
