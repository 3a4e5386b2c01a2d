"""How large to draw: as fine as the page while nothing moves, as the machine keeps up with while something does."""

from __future__ import annotations

from typing import Final

LARGEST: Final = 1024
"""px; no avatar has more detail."""
SMALLEST: Final = 192
"""px; motion is not drawn smaller than this or half of what the avatar was fitted at."""
STEP: Final = 32
"""Sizes in motion are multiples of this, so that they change seldom."""
SLOW_SECONDS, FAST_SECONDS = 1 / 24, 1 / 45
"""Per picture, drawing and encoding: above the first the next is smaller, below the second larger."""
SMOOTHING: Final = 0.2
"""Weight of the newest picture in the running mean."""


class Resolution:
    """The size of one tab's pictures, px."""

    def __init__(self, own_size: int) -> None:
        """
        Args:
            own_size: the size that the avatar was fitted at; motion starts there.
        """
        self._moving, self._smallest = own_size, max(SMALLEST, own_size // 2)
        self._mean: float | None = None

    def side(self, room: int, moving: bool) -> int:
        """Width of the next picture.

        Args:
            room: px that the page has for it.
        """
        full = max(SMALLEST, min(room, LARGEST))
        return min(full, self._moving) if moving else full

    def took(self, seconds: float, side: int) -> None:
        """Learns from a picture in motion: how long it took, at which size."""
        self._mean = seconds if self._mean is None else (1 - SMOOTHING) * self._mean + SMOOTHING * seconds
        if self._mean > SLOW_SECONDS:
            self._change(side * 0.85)
        elif self._mean < FAST_SECONDS and side >= self._moving:
            self._change(side * 1.15)

    def _change(self, side: float) -> None:
        self._moving = min(max(round(side / STEP) * STEP, self._smallest), LARGEST)
        self._mean = None
