"""`avatar view`: what the name on the command line stands for, and the viewer for it until Ctrl-C."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from avatar.capture import load_capture
from avatar.cores import usable_threads
from avatar.errors import UserError
from avatar.model import Avatar, own_motion
from avatar.pipeline import new_metadata
from avatar.progress import SILENT, Reporter
from avatar.run_folder import RunFolder, load_run, manifest_path, run_beside
from avatar.speech import person_statistics
from avatar.track import load_track
from avatar.train import checkpoint_model, checkpoint_path
from avatar.train.control import send_command
from avatar.train.monitor import metrics_path
from avatar.types import Capture
from avatar.viewer import RunWatch, Subject, Viewer, start_viewer
from avatar.viewer.sources import opened_source
from avatar.viewer.training import wait_for


def view(path: Path, host: str, port: int | None = None, play: Path | None = None, reporter: Reporter = SILENT) -> None:
    """Serves the viewer until interrupted.

    Args:
        path: an avatar file, or a run folder whose fit may still be going on.
        play: sound, CSV or JSON track to open with.
    Raises:
        UserError: neither of the two, a port that is taken, or a motion that cannot be read.
    """
    viewer = open_viewer(path, host, port, play, reporter)
    reporter.say("Open the address in a browser; Ctrl-C ends the viewer.")
    print(viewer.address, flush=True)
    try:
        threading.Event().wait()
    finally:
        viewer.stop()


def open_viewer(
    path: Path, host: str, port: int | None = None, play: Path | None = None, reporter: Reporter = SILENT
) -> Viewer:
    """As `view`, but returns while the viewer runs in threads of its own."""
    limit_drawing_threads()
    subject, watch = open_run_folder(path, reporter) if path.is_dir() else (open_avatar(path), None)
    source = None if play is None else opened_source(subject.current[0], play)
    return start_viewer(subject, host, port, watch, source)


def limit_drawing_threads() -> None:
    """Half the cores draw; the others encode pictures, serve pages and run the browser."""
    torch.set_num_threads(max(1, usable_threads() // 2))


def open_avatar(path: Path) -> Subject:
    """An avatar file, with the clip's frames if it still lies in the run folder that it came from.

    Raises:
        UserError: not an avatar file.
    """
    avatar = Avatar.load(path)
    run = run_beside(path, avatar.metadata.provenance.source_sha256)
    return Subject(path.stem, avatar, None if run is None else load_capture(run.capture))


def open_run_folder(folder: Path, reporter: Reporter = SILENT) -> tuple[Subject, RunWatch]:
    """A run, whose newest avatar is shown as it comes; waits for the first one.

    Raises:
        UserError: not a run folder.
    """
    run = load_run(folder) if manifest_path(folder).is_file() else None
    if run is None:
        raise UserError(f"There is no run in {folder}; name an avatar file or the folder of a fit.")
    files = (checkpoint_path(folder), run.avatar)
    if not any(path.is_file() for path in files):
        reporter.say(f"Waiting for the first checkpoint in {folder}; Ctrl-C gives up.")
        wait_for((metrics_path(folder), *files))
        send_command(folder, "save")
        wait_for(files)
    capture = load_capture(run.capture)
    watch = RunWatch(folder, run.config.train.steps, files, lambda: newest_avatar(run, capture))
    return Subject(folder.resolve().name, newest_avatar(run, capture), capture), watch


def newest_avatar(run: RunFolder, capture: Capture) -> Avatar:
    """The finished file of a run, or its checkpoint where that is newer.

    Raises:
        UserError: what is there cannot be read.
    """
    checkpoint = checkpoint_path(run.path)
    times = [p.stat().st_mtime if p.is_file() else 0.0 for p in (run.avatar, checkpoint)]
    if times[0] >= times[1]:
        return Avatar.load(run.avatar)
    track = load_track(run.track)
    metadata = new_metadata(run, capture, track)
    model = checkpoint_model(checkpoint, track.camera, metadata.hidden)
    return Avatar(model, metadata, person_statistics(track), None, own_motion(track))
