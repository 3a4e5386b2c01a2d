"""`avatar eval`: the scores of avatar files on a clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as markup
from rich.table import Table

from avatar.capture import clip_sha256, load_capture
from avatar.config import FitConfig
from avatar.dataset import FrameSet
from avatar.errors import UserError
from avatar.evaluate.comparison import (
    COLUMNS,
    Entry,
    chosen_frames,
    distinct_names,
    table_rows,
    write_comparison,
)
from avatar.evaluate.held_out import evaluate, evaluated_indices, shown_frames
from avatar.evaluate.report import write_json, write_page
from avatar.model import Avatar
from avatar.pipeline import new_report
from avatar.progress import Reporter
from avatar.raster.device import resolve_device
from avatar.run_folder import RunFolder, run_beside
from avatar.speech import load_speech, speech_features
from avatar.track import load_track
from avatar.track.clip import tracked_clip
from avatar.types import Capture, Finding, SpeechFeatures, Track

NARROW_COLUMNS = ("psnr", "ssim", "head", "mouth_crop", "mouth", "torso", "background", "lmd")
"""What a terminal of 80 characters has room for; JSON and page always have all."""
WIDE_TERMINAL = 110
"""Characters from which on the terminal shows every column."""

_Stages = tuple[Capture, Track, SpeechFeatures | None]


def evaluate_files(
    avatar_paths: Sequence[Path],
    clip: Path,
    save_frames: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    face_landmarker: Path | None,
    reporter: Reporter,
) -> tuple[Entry, ...]:
    """Scores avatar files on the held-out part of a clip, each as if it were alone.

    The run beside a file lends its decoded frames and track if they are of this very clip; otherwise the clip is
    captured and tracked anew, once for each size.

    Args:
        save_frames: folder for the scored pictures, in a subfolder for each avatar if there are several.
        json_path, html_path: the report of one avatar, or the comparison of several.
    Raises:
        UserError: an avatar or the clip cannot be read, an avatar is named twice, or an output cannot be written.
    """
    if len({path.resolve() for path in avatar_paths}) < len(avatar_paths):
        raise UserError("The same avatar file is named twice; name each once.")
    names = distinct_names(avatar_paths)
    avatars = [Avatar.load(path) for path in avatar_paths]
    sha256 = clip_sha256(clip)
    entries: list[Entry] = []
    sources: list[tuple[Avatar, FrameSet]] = []
    tracked: dict[int, _Stages] = {}
    with ExitStack() as stack:
        for path, avatar, name in zip(avatar_paths, avatars, names, strict=True):
            run = run_beside(path, sha256) if face_landmarker is None else None
            size = avatar.camera.width
            if run is not None:
                stages = _stages_of(run)
            else:
                if size not in tracked:
                    tracked[size] = stack.enter_context(_tracked(clip, size, face_landmarker, reporter))
                stages = tracked[size]
            capture, track, speech = stages
            frames = FrameSet(capture, track, resolve_device("auto"), speech)
            if len(avatar_paths) > 1:
                reporter.say(f"{name}:")
            warnings = other_clip(avatar, name, sha256)
            for warning in warnings:
                reporter.finding(warning)
            folder = save_frames if save_frames is None or len(avatar_paths) == 1 else save_frames / name
            found = evaluate(avatar, frames, reporter, folder)
            run = run or RunFolder(path.parent, clip.name, sha256, FitConfig(size=capture.size), False, {})
            report = new_report(path, avatar, found, frames, run)
            report = dataclasses.replace(report, findings=(*warnings, *report.findings))
            entries.append(Entry(name, report, tuple(int(i) for i in evaluated_indices(frames))))
            sources.append((avatar, frames))
        if len(entries) == 1:
            if json_path is not None:
                write_json(entries[0].report, json_path)
            if html_path is not None:
                write_page(entries[0].report, html_path)
        else:
            chosen = chosen_frames(entries)
            entries = [
                dataclasses.replace(entry, shown=shown_frames(avatar, frames, list(chosen)))
                for entry, (avatar, frames) in zip(entries, sources, strict=True)
            ]
            write_comparison(entries, clip.name, json_path, html_path)
    return tuple(entries)


def other_clip(avatar: Avatar, name: str, sha256: str) -> tuple[Finding, ...]:
    """A warning where an avatar was made from another clip than the one of this hash."""
    source = avatar.metadata.provenance
    if source.source_sha256 == sha256:
        return ()
    message = (
        f"This is not the clip that {name} was made from ({source.source_name}): the scores also count what differs"
        " between the two films, such as light, clothes and framing."
    )
    return (Finding("warning", message),)


def _stages_of(run: RunFolder) -> _Stages:
    speech = load_speech(run.speech) if run.speech.is_file() else None
    return load_capture(run.capture), load_track(run.track), speech


@contextmanager
def _tracked(clip: Path, size: int, face_landmarker: Path | None, reporter: Reporter) -> Iterator[_Stages]:
    with tracked_clip(clip, size, face_landmarker, reporter) as (capture, track):
        yield capture, track, speech_features(capture, track, capture.folder.parent / "speech.safetensors", reporter)


def print_scores(entries: Sequence[Entry]) -> None:
    """The rows as a table on stdout; of several avatars one under the other, by kind of row."""
    several, console = len(entries) > 1, Console()
    shown = [k for k, key in enumerate(COLUMNS) if key in NARROW_COLUMNS or console.width >= WIDE_TERMINAL]
    first = entries[0].report
    title = f"{first.name}: {first.rows['tracked']['frames']} held-out frames, {first.size} px"
    table = Table(
        title=f"{len(entries)} avatars on their held-out frames" if several else title,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("row")
    if several:
        table.add_column("avatar", overflow="fold", min_width=8)
    headings = [heading for heading, _, _ in COLUMNS.values()]
    for k in shown:
        table.add_column(headings[k], justify="right", min_width=5)
    last = ""
    for kind, name, cells, marks in table_rows(entries):
        if several and last and kind != last:
            table.add_section()
        last = kind
        numbers = [f"[bold]{cells[k]}[/bold]" if marks[k] else cells[k] for k in shown]
        table.add_row(kind, *([markup(name)] if several else []), *numbers)
    console.print(table)
