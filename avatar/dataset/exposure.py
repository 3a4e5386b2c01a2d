"""Exposure drift: cameras on automatic brighten and tint single stretches of a clip; an avatar must not learn that.

What stands still tells: the backdrop of each frame against the clip's own plate, one gain per colour channel. Frames
are brought to the plate's exposure for fitting; renderings are brought to the frame's for comparing with it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from avatar.types import Capture, Track

SAMPLES = 24
"""Frames that decide whether a clip's exposure drifts at all; where it does not, pictures are left as they are."""
LEAST_DRIFT = 0.012
"""Standard deviation of the gains above which it does. Steady studio cameras stay below 0.007."""
PIXELS = 20_000
"""About as many pixels of a frame are looked at."""
FEWEST_PIXELS = 300
"""With less backdrop in sight than this nothing is said about a frame."""
DARK, BRIGHT = 24, 232
"""Grey levels between which a ratio means something: neither noise nor clipped."""
GAIN_LIMITS = (0.5, 2.0)


class Exposure:
    """Gains of a clip's frames over its backdrop plate."""

    def __init__(self, capture: Capture, track: Track) -> None:
        self._capture, self._track = capture, track
        step = max(1, round((track.backdrop[..., 0].size / PIXELS) ** 0.5))
        self._grid = (slice(step // 2, None, step), slice(step // 2, None, step))
        self._plate = track.backdrop[self._grid].astype(np.float32)
        self._steady = ((self._plate > DARK) & (self._plate < BRIGHT)).all(axis=-1)
        shown = np.flatnonzero(track.valid)  # a black stretch or another shot says nothing about the camera
        samples = shown[np.linspace(0, len(shown) - 1, min(len(shown), SAMPLES)).round().astype(int)]
        gains = np.array([self._measured(int(i)) for i in samples])
        self.spread = float(gains.std(axis=0).max())
        """Standard deviation of the gains of single frames."""
        self.drifts = self.spread > LEAST_DRIFT

    def gain(self, index: int) -> Float[np.ndarray, "3"]:
        """How much brighter than the plate a frame is, per channel; 1 where the clip's exposure holds still."""
        return self._measured(index) if self.drifts else np.ones(3)

    def removed(self, picture: UInt8[np.ndarray, "H W 3"], index: int) -> UInt8[np.ndarray, "H W 3"]:
        """A frame as the camera would have taken it with the plate's exposure."""
        return _scaled(picture, 1 / self.gain(index)) if self.drifts else picture

    def applied(self, picture: UInt8[np.ndarray, "H W 3"], index: int) -> UInt8[np.ndarray, "H W 3"]:
        """A rendering as the camera would have taken it with a frame's exposure."""
        return _scaled(picture, self.gain(index)) if self.drifts else picture

    def _measured(self, index: int) -> Float[np.ndarray, "3"]:
        seen = self._steady & (self._track.regions.matte(index)[self._grid] == 0)
        picture = self._capture.frames[index][self._grid][seen].astype(np.float32)
        if len(picture) < FEWEST_PIXELS:
            return np.ones(3)
        return np.median(picture / self._plate[seen], axis=0).astype(np.float64).clip(*GAIN_LIMITS)


def _scaled(picture: UInt8[np.ndarray, "H W 3"], gain: Float[np.ndarray, "3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (picture * gain.astype(np.float32) + 0.5).clip(0, 255).astype(np.uint8)
