"""Measures the tracking stage: time, memory and, against a computer-generated clip's exact truth, its errors.

    python scripts/measure_tracking.py CLIP [--size PX] [--truth captures/demo_truth.safetensors]

The clip is decoded before the clock starts; MediaPipe is loaded by then, as in a fit. Two rotations that differ by a
constant turn of the head frame, and two places that differ by a constant offset in it and a common scale, are the same.
Processor time is that of all threads; the clock says something only on an otherwise idle machine. Run it from the
project's root.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import tyro
from safetensors.numpy import load_file

from avatar.capture import capture
from avatar.cores import usable_cores
from avatar.geometry import nearest_rotation, rotvec_from_matrix
from avatar.track import track
from avatar.types import Track


@dataclass
class Options:
    """What to measure."""

    clip: tyro.conf.Positional[Path]
    """Clip of one person."""
    size: int = 512
    """Side of the frames in pixels."""
    truth: Path | None = None
    """Exact truth of the clip, as scripts/make_demo_capture.py writes it."""


def errors(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """RMS of the angle in degrees, and RMS of the place over the distance, of poses [N, 4, 4] against true ones."""
    turn, wanted = found[:, :3, :3], true[:, :3, :3]
    constant = nearest_rotation(np.einsum("nij,nik->jk", wanted, turn))
    off = rotvec_from_matrix(np.swapaxes(wanted @ constant, 1, 2) @ turn)
    place, columns = found[:, :3, 3], np.concatenate([wanted, true[:, :3, 3:]], axis=2).reshape(-1, 4)
    fitted = columns @ np.linalg.lstsq(columns, place.reshape(-1), rcond=None)[0]
    away = np.sqrt(((place - fitted.reshape(-1, 3)) ** 2).sum(axis=1).mean()) / place[:, 2].mean()
    return float(np.degrees(np.sqrt((off**2).sum(axis=1).mean()))), float(away)


def compare(tracked: Track, truth: Path) -> None:
    """Prints the errors of head and torso."""
    true = load_file(truth)
    for name in ("camera_from_head", "camera_from_torso"):
        turn, place = errors(getattr(tracked, name), true[name])
        print(f"{name}: rotation {turn:.3f} degrees, translation {place:.3%} of the distance (RMS)")
    print(f"focal length {tracked.camera.focal_px / float(true['focal_px'].item()):.3f} of the true one")


def main(options: Options) -> None:
    """Tracks the clip once."""
    with tempfile.TemporaryDirectory(prefix="avatar-") as folder:
        captured = capture(options.clip, Path(folder) / "capture", options.size)
        wall, busy = time.perf_counter(), time.process_time()
        tracked = track(captured, Path(folder) / "track.safetensors")
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
    count, seconds = len(captured.frames), len(captured.frames) / captured.fps
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count} frames of {captured.size} px, {seconds:.1f} s: {wall:.1f} s by the clock ({seconds / wall:.2f} times "
        f"real time), {busy:.1f} s of processor time on {usable_cores()} cores, peak memory {memory:.0f} MB"
    )
    if options.truth is not None:
        compare(tracked, options.truth)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
