"""What is looked at: an avatar that may be replaced by a newer one while it is still being fitted."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import UInt8

from avatar.model import Avatar
from avatar.types import Capture


class Subject:
    """An avatar with the clip it was made from, where that is at hand. Shared by all tabs."""

    def __init__(self, name: str, avatar: Avatar, capture: Capture | None = None) -> None:
        """
        Args:
            capture: the decoded clip; None where it is not on this disk, then there is nothing to compare with.
        """
        self.name, self.capture = name, capture
        self._lock = threading.Lock()
        self._avatar, self._version = avatar, 0

    @property
    def current(self) -> tuple[Avatar, int]:
        """The newest avatar and its number, which changes when it is replaced."""
        with self._lock:
            return self._avatar, self._version

    def replace(self, avatar: Avatar) -> None:
        """A newer avatar of the same person takes the old one's place."""
        with self._lock:
            self._avatar, self._version = avatar, self._version + 1

    def real_frame(self, time: float) -> UInt8[np.ndarray, "H W 3"] | None:
        """The clip's own frame at a time in seconds; None without the clip."""
        if self.capture is None:
            return None
        times = self.capture.times
        after = int(np.searchsorted(times, time).clip(1, len(times) - 1)) if len(times) > 1 else 0
        nearest = after if after == 0 or times[after] - time < time - times[after - 1] else after - 1
        return self.capture.frames[nearest]
