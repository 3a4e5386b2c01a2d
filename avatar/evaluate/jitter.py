"""Jitter: how much a rendered head trembles where the filmed one does not, without any landmark or optical flow.

The second difference in time of a pixel's brightness, ``I(t-1) - 2 I(t) + I(t+1)``, is near zero in a still or evenly
moving picture and large in one that trembles. Taken of the rendering and of the clip over the head's pixels, their
difference is what the avatar adds or leaves out; noise of the clip's camera is part of it, so the number is to be
compared between avatars of one clip.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

LEVELS = 255.0


class Jitter:
    """Accumulates second differences over consecutive frames; keeps the last two frames."""

    def __init__(self) -> None:
        self._last: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []
        self._pixels, self._difference, self._ours, self._true = 0, 0.0, 0.0, 0.0

    def add(
        self,
        number: int,
        luma: Float[np.ndarray, "H W"],
        true_luma: Float[np.ndarray, "H W"],
        head: Bool[np.ndarray, "H W"],
    ) -> None:
        """Adds the next frame.

        Args:
            number: frame number in the clip; a gap starts anew.
            luma, true_luma: brightness of the rendering and of the clip, 0..1.
            head: True where the head is.
        """
        if self._last and number != self._last[-1][0] + 1:
            self._last = []
        self._last = [*self._last[-2:], (number, luma, true_luma, head)]
        if len(self._last) < 3:
            return
        (_, r0, t0, _), (_, r1, t1, mask), (_, r2, t2, _) = self._last
        ours, true = ((a - 2 * b + c)[mask].astype(np.float64) for a, b, c in ((r0, r1, r2), (t0, t1, t2)))
        self._pixels += ours.size
        self._difference += float(np.square(ours - true).sum())
        self._ours += float(np.square(ours).sum())
        self._true += float(np.square(true).sum())

    def result(self) -> dict[str, float | None]:
        """``error``: root mean square of rendered minus true second difference, in levels of 255 (0 moves exactly
        alike); ``ratio``: rendered over true root mean square (1 is as lively, above trembles more, below is too
        smooth). None where no three frames follow each other, or nothing moves in the clip."""
        if not self._pixels:
            return {"error": None, "ratio": None}
        return {
            "error": LEVELS * (self._difference / self._pixels) ** 0.5,
            "ratio": (self._ours / self._true) ** 0.5 if self._true else None,
        }
