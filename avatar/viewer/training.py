"""A run that is still being fitted: its curves, its newest avatar, and the commands that it obeys."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatar.errors import UserError
from avatar.model import Avatar
from avatar.train import read_metrics
from avatar.train.control import Command, read_command, send_command
from avatar.train.monitor import metrics_path
from avatar.viewer.subject import Subject

POLL_SECONDS = 1.0
Curve = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Steps and values."""


@dataclass(frozen=True)
class Progress:
    """What a run has written down so far."""

    step: int = 0
    steps: int = 0
    """Of the whole fit."""
    score: Curve = field(default_factory=lambda: (np.zeros(0), np.zeros(0)))
    """Steps, and held-out PSNR in dB of a few frames."""
    loss: Curve = field(default_factory=lambda: (np.zeros(0), np.zeros(0)))
    """Steps, and loss."""

    @property
    def finished(self) -> bool:
        return self.step >= self.steps > 0


class RunWatch:
    """Looks at a run folder once a second and gives the subject each new avatar."""

    def __init__(self, folder: Path, steps: int, files: tuple[Path, ...], load: Callable[[], Avatar]) -> None:
        """
        Args:
            files: a newer one of these means a newer avatar.
            load: reads the newest avatar of the run.
        """
        self.folder, self.progress = folder, Progress(steps=steps)
        self.problem: str | None = None
        """Why the newest avatar could not be read."""
        self._files, self._load = files, load
        self._stamp = self._stamps()
        self._metrics_stamp: int | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, subject: Subject) -> None:
        """Watches in a thread of its own until `stop`."""

        def run() -> None:
            while not self._stopped.wait(POLL_SECONDS):
                self.poll(subject)

        self.poll(subject)
        self._thread = threading.Thread(target=run, name="viewer run watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    @property
    def paused(self) -> bool:
        """Whether the fit was last told to pause."""
        return read_command(self.folder) == "pause"

    @property
    def quiet_seconds(self) -> float:
        """How long the fit has written nothing down."""
        return time.time() - (self._metrics_stamp or time.time_ns()) / 1e9

    def send(self, command: Command) -> None:
        """Asks the fit to pause, go on, stop, or save what it has.

        Raises:
            UserError: the run folder cannot be written.
        """
        send_command(self.folder, command)

    def poll(self, subject: Subject) -> None:
        """One look."""
        self._read_metrics()
        stamp = self._stamps()
        if stamp != self._stamp:
            try:
                subject.replace(self._load())
                self._stamp, self.problem = stamp, None
            except UserError as error:
                self.problem = str(error)

    def _stamps(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in self._files)

    def _read_metrics(self) -> None:
        path = metrics_path(self.folder)
        stamp = path.stat().st_mtime_ns if path.is_file() else None
        if stamp == self._metrics_stamp:
            return
        try:
            lines = read_metrics(self.folder)
        except (json.JSONDecodeError, OSError):  # caught in the middle of a line; the next look has it whole
            return
        self._metrics_stamp = stamp
        step = max((int(line["step"]) for line in lines), default=0)
        self.progress = Progress(step, self.progress.steps, _series(lines, "held_out/psnr"), _series(lines, "loss"))


def _series(lines: list[dict[str, float | int]], key: str) -> Curve:
    points = [(float(line["step"]), float(line[key])) for line in lines if key in line]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def wait_for(files: tuple[Path, ...], seconds: float = 0.5) -> None:
    """Returns when one of the files is there."""
    while not any(path.is_file() for path in files):
        time.sleep(seconds)
