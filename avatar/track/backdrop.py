"""The backdrop plate: what is behind the person, as a robust mean of the uncovered pixels of sampled frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

MEMORY_BYTES = 192 << 20
"""Upper bound of what the sampled frames may take; the number of samples follows from it."""
MOST_SAMPLES = 64
CLEAR = 20
"""A pixel counts as uncovered where the (widened) person probability is below this, of 255."""
FEW = 3
"""Pixels uncovered in fewer samples than this are filled from their surroundings instead."""
GRID = 64
"""Samples are compared at about this many pixels across."""
STRANGE_GREY, STRANGE_RATIO = 12.0, 4.0
"""A sample is of something else (black, another shot) if it is off the others by more than this, and by more than this
many times what is usual: it would show as backdrop wherever the person always stands."""


@dataclass(frozen=True)
class Plate:
    """Backdrop and how far it can be trusted."""

    colour: UInt8[np.ndarray, "H W 3"]
    spread: Float32[np.ndarray, "H W"]
    """Typical deviation of an uncovered pixel from `colour`, 0..255."""
    seen: Bool[np.ndarray, "H W"]
    """True where the backdrop was really seen; elsewhere it is filled."""


class BackdropBuilder:
    """Collects evenly spaced samples while frames stream by, then makes the plate."""

    def __init__(self, frames: int, size: int) -> None:
        most = int(np.clip(MEMORY_BYTES // (size * size * 4), 8, MOST_SAMPLES))
        self._wanted = set(np.linspace(0, max(frames - 1, 0), min(most, frames)).round().astype(int).tolist())
        self._frames: list[np.ndarray] = []
        self._covered: list[np.ndarray] = []

    def add(self, index: int, frame: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "S S"]) -> None:
        """Offers frame `index` with its raw person mask."""
        if index not in self._wanted:
            return
        import cv2

        size = frame.shape[0]
        reach = max(3, round(0.03 * mask.shape[0]))
        wide = cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        wide = cv2.resize(wide, (size, size), interpolation=cv2.INTER_LINEAR)
        self._frames.append(np.ascontiguousarray(frame.transpose(2, 0, 1)))
        self._covered.append(wide >= CLEAR)

    def plate(self) -> Plate:
        """The median of the uncovered samples of each pixel; never-seen pixels are filled smoothly."""
        if not self._frames:
            raise ValueError("no frames were offered")
        frames, all_covered = self._of_one_shot()
        size = frames[0].shape[-1]
        colour = np.zeros((size, size, 3), np.float32)
        spread = np.zeros((size, size), np.float32)
        count = np.zeros((size, size), np.int32)
        rows = max(1, (1 << 20) // (size * 3 * len(frames)))
        for top in range(0, size, rows):
            part = slice(top, top + rows)
            stack = np.stack([f[:, part] for f in frames])
            covered = np.stack([c[part] for c in all_covered])
            number = len(covered) - covered.sum(axis=0, dtype=np.uint8)
            middle = _median(np.where(covered[:, None], np.uint8(255), stack), number)
            floor = middle.astype(np.uint8)
            away = (np.maximum(stack, floor) - np.minimum(stack, floor)).max(axis=1)
            spread[part] = _median(np.where(covered, np.uint8(255), away), number)
            colour[part], count[part] = middle.transpose(1, 2, 0), number
        seen = count >= min(FEW, len(frames))
        filled = fill(colour, seen)
        return Plate(np.clip(filled + 0.5, 0, 255).astype(np.uint8), spread, seen)

    def _of_one_shot(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The samples, and where each is covered, without those that show something else than the others do where most
        see the backdrop."""
        step = max(1, self._frames[0].shape[-1] // GRID)
        stack = np.stack([f[:, ::step, ::step] for f in self._frames])
        covered = np.stack([c[::step, ::step] for c in self._covered])
        number = len(covered) - covered.sum(axis=0, dtype=np.uint8)
        middle = _median(np.where(covered[:, None], np.uint8(255), stack), number)
        away, usual = np.abs(stack - middle).max(axis=1), number > len(covered) / 2
        seen = [a[usual & ~c] for a, c in zip(away, covered, strict=True)]
        off = np.array([float(np.median(a)) if len(a) else 0.0 for a in seen])
        kept = np.flatnonzero(off <= max(STRANGE_GREY, STRANGE_RATIO * float(np.median(off))))
        return [self._frames[k] for k in kept], [self._covered[k] for k in kept]


def fill(colour: Float32[np.ndarray, "H W C"], known: Bool[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W C"]:
    """Fills unknown pixels smoothly from known ones (push-pull over a pyramid); mid-grey where none is known.

    Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.5.
    """
    import cv2

    weight = known.astype(np.float32)[..., None]
    value = np.where(weight > 0, colour, 0).astype(np.float32)
    if not known.any():
        return np.full_like(value, 127.0)
    pyramid = [(value, weight)]
    while min(pyramid[-1][0].shape[:2]) > 1:
        high, trust = pyramid[-1]
        shape = ((high.shape[1] + 1) // 2, (high.shape[0] + 1) // 2)
        summed = _resize(cv2, cv2.GaussianBlur(high * trust, (5, 5), 1.0), shape)
        total = _resize(cv2, cv2.GaussianBlur(trust, (5, 5), 1.0), shape)
        pyramid.append((summed / np.maximum(total, 1e-6), np.minimum(total * 4, 1.0)))
    below = pyramid[-1][0]
    for high, trust in reversed(pyramid[:-1]):
        raised = cv2.resize(below, (high.shape[1], high.shape[0]), interpolation=cv2.INTER_LINEAR)
        below = trust * high + (1 - trust) * raised.reshape(high.shape)
    return below


def _median(values: UInt8[np.ndarray, " S *p"], number: UInt8[np.ndarray, "*n"]) -> Float32[np.ndarray, "*p"]:
    """Median over the first axis of the `number` smallest values (the others were set to 255)."""
    last = np.maximum(number, 1) - np.uint8(1)
    low, high = (_smallest(values, k).astype(np.float32) for k in (last // 2, (last + 1) // 2))
    return (low + high) / 2


def _smallest(values: UInt8[np.ndarray, " S *p"], k: UInt8[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*p"]:
    """The k-th smallest (from 0) of at most 255 values, bit by bit: ten times faster than sorting them."""
    found = np.zeros(values.shape[1:], np.uint8)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        tried = found | np.uint8(bit)
        below = (values < tried).sum(axis=0, dtype=np.uint8)
        found = np.where(below <= k, tried, found)
    return found


def _resize(cv2, image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    out = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    return out.reshape(shape[1], shape[0], -1)
