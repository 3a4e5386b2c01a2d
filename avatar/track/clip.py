"""`avatar track`: the tracking stage alone, its result in the formats that other programs read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from avatar.capture import capture
from avatar.media import write_video
from avatar.progress import Reporter
from avatar.track import track, track_to_csv, track_to_json
from avatar.track.overlay import overlay
from avatar.types import Capture, Track


@contextmanager
def tracked_clip(
    clip: Path, size: int | None, face_landmarker: Path | None, reporter: Reporter
) -> Iterator[tuple[Capture, Track]]:
    """Capture and track of a clip in a temporary folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="avatar-") as folder:
        captured = capture(clip, Path(folder) / "capture", size, reporter)
        yield captured, track(captured, Path(folder) / "track.safetensors", reporter, face_landmarker)


def write_tracks(
    clip: Path, output: Path, size: int | None, face_landmarker: Path | None, reporter: Reporter
) -> list[Path]:
    """Tracks a clip and writes the track, CSV, JSON and an overlay video; returns their paths.

    Raises:
        UserError: the clip cannot be tracked, or a file cannot be written.
    """
    stem = output.name.removesuffix(".safetensors").removesuffix(".track")
    beside = {suffix: output.with_name(stem + suffix) for suffix in (".csv", ".json", ".overlay.mp4")}
    with tempfile.TemporaryDirectory(prefix="avatar-") as folder:
        captured = capture(clip, Path(folder) / "capture", size, reporter)
        tracked = track(captured, output, reporter, face_landmarker)
        for finding in (*captured.findings, *tracked.findings):
            reporter.finding(finding)
        track_to_csv(tracked, beside[".csv"])
        track_to_json(tracked, beside[".json"])
        write_video(beside[".overlay.mp4"], _overlays(captured, tracked, reporter), captured.fps, audio=captured.audio)
    return [output, *beside.values()]


def _overlays(captured: Capture, tracked: Track, reporter: Reporter) -> Iterator[np.ndarray]:
    with reporter.bar("drawing the overlay", len(captured.frames)) as bar:
        for i in range(len(captured.frames)):
            yield overlay(captured.frames[i], tracked, i)
            bar.advance()
