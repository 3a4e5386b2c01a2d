"""`avatar track`: the tracking stage alone, its result in the formats that other programs read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from avatar.capture import capture
from avatar.errors import UserError
from avatar.files import check_writable
from avatar.media import write_video
from avatar.progress import Reporter
from avatar.track import track, track_to_csv, track_to_json
from avatar.track.detect import check_landmarker
from avatar.track.overlay import overlay
from avatar.types import Capture, Track


@contextmanager
def tracked_clip(
    clip: Path, size: int | None, face_landmarker: Path | None, reporter: Reporter, output: Path | None = None
) -> Iterator[tuple[Capture, Track]]:
    """Capture and track of a clip in a temporary folder that is gone afterwards; says what was found wrong with it.

    Args:
        output: where the track is kept, None if nowhere.
    """
    if face_landmarker is not None:
        check_landmarker(face_landmarker)  # before the clip is read, which takes long
    with tempfile.TemporaryDirectory(prefix="avatar-") as folder:
        captured = capture(clip, Path(folder) / "capture", size, reporter)
        tracked = track(captured, output or Path(folder) / "track.safetensors", reporter, face_landmarker)
        for finding in (*captured.findings, *tracked.findings):
            reporter.finding(finding)
        yield captured, tracked


def write_tracks(
    clip: Path, output: Path | None, size: int | None, face_landmarker: Path | None, reporter: Reporter
) -> list[Path]:
    """Tracks a clip and writes the track, CSV, JSON and an overlay video; returns their paths.

    Args:
        output: a folder, or a name of which the suffix does not matter; None is the clip's name, here.
    Raises:
        UserError: the clip cannot be tracked, or a file cannot be written.
    """
    paths = track_paths(clip, output)
    _check_places(paths, clip)
    with tracked_clip(clip, size, face_landmarker, reporter, paths[0]) as (captured, tracked):
        track_to_csv(tracked, paths[1])
        track_to_json(tracked, paths[2])
        # at the frames' own times: phones slow down in the dark, and the sound does not
        drawn = _overlays(captured, tracked, reporter)
        write_video(paths[3], drawn, times=captured.times, audio=captured.audio)
    return paths


def track_paths(clip: Path, output: Path | None) -> list[Path]:
    """Where `write_tracks` puts track, CSV, JSON and overlay video."""
    if output is None:
        output = Path(clip.stem)
    elif output.is_dir():
        output = output / clip.stem
    stem = output.name
    for suffix in (".safetensors", ".csv", ".json", ".mp4", ".track", ".overlay"):
        stem = stem.removesuffix(suffix)
    return [output.with_name(stem + suffix) for suffix in (".track.safetensors", ".csv", ".json", ".overlay.mp4")]


def _check_places(paths: list[Path], clip: Path) -> None:
    """Before an hour's work: nothing of the user's is overwritten, and the files can be written."""
    for path in paths:
        if path.exists() and clip.exists() and path.samefile(clip):
            raise UserError(f"{path} is the clip itself and would be overwritten; choose another name with -o.")
        check_writable(path)


def _overlays(captured: Capture, tracked: Track, reporter: Reporter) -> Iterator[np.ndarray]:
    with reporter.bar("drawing the overlay", len(captured.frames)) as bar:
        for i in range(len(captured.frames)):
            yield overlay(captured.frames[i], tracked, i)
            bar.advance()
