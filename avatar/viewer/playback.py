"""The motion that plays: a clock over a motion, with play, pause and seek. No drawing, no browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from avatar.types import Motion
from avatar.viewer.pose import Pose, pose_at


@dataclass(frozen=True)
class Source:
    """Something to play."""

    name: str
    motion: Motion
    audio: Float32[np.ndarray, " S"] | None = None
    """Its sound at SAMPLE_RATE; sample 0 belongs to the first frame."""
    is_clip: bool = False
    """True for the clip that the avatar was made from: its times are those of the clip's frames."""

    @property
    def seconds(self) -> float:
        """From the first to the last frame."""
        return float(self.motion.times[-1] - self.motion.times[0])


class Playback:
    """Where in a source we are. Times count from the source's first frame, in seconds."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._source, self._at, self._started = source, 0.0, None
        self.loop = True

    @property
    def source(self) -> Source:
        return self._source

    @property
    def playing(self) -> bool:
        return self._started is not None

    def load(self, source: Source) -> None:
        """Another source, paused at its start."""
        with self._lock:
            self._source, self._at, self._started = source, 0.0, None

    def play(self) -> None:
        """Goes on from where it is, or from the start when it is at the end."""
        with self._lock:
            if self._started is None and self._source.seconds > 0:
                if self._at >= self._source.seconds:
                    self._at = 0.0
                self._started = self._clock()

    def pause(self) -> None:
        with self._lock:
            self._at, self._started = self._now(), None

    def seek(self, seconds: float) -> None:
        """Jumps; goes on playing if it was."""
        with self._lock:
            self._at = min(max(seconds, 0.0), self._source.seconds)
            if self._started is not None:
                self._started = self._clock()

    @property
    def seconds(self) -> float:
        """Where it is. Stops at the end, or starts again with `loop`."""
        with self._lock:
            now = self._now()
            if self._started is not None and not self.loop and now >= self._source.seconds:
                self._at, self._started = self._source.seconds, None
            return now

    def _now(self) -> float:
        length = self._source.seconds
        if self._started is None:
            return self._at
        now = self._at + self._clock() - self._started
        return now % length if self.loop and length > 0 else min(now, length)

    def pose(self, seconds: float) -> Pose:
        """The source's motion there."""
        return pose_at(self._source.motion, float(self._source.motion.times[0]) + seconds)
