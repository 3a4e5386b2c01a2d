"""Zero-phase smoothing of uneven time series (offline: looks both ways, so it never lags)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import solveh_banded

from avatar.geometry import columns_at

ADAPTIVE_WINDOW_SECONDS = 0.8
"""Motion within about this time of a frame keeps its smoothing light."""
MEDIAN_OF_SQUARE = 0.455
"""Median of the square of a standard normal number."""
NOISE_MARGIN = 2.5
"""Energy between the bands, over that of pure noise, below which it counts as noise."""


def whittaker(
    values: Float[np.ndarray, "N D"],
    times: Float[np.ndarray, " N"],
    cutoff_hz: float,
    weights: Float[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, "N D"]:
    """Penalised least squares: min sum w (s - v)^2 + l * integral of s''^2, l set by the half-power frequency.

    Linear and symmetric, hence zero phase; frames of weight 0 are bridged. Cost is linear in N.
    Eilers, "A perfect smoother", Anal. Chem. 2003.

    Args:
        values: [N, D] samples; rows of weight 0 may hold anything finite.
        times: [N] seconds, strictly increasing.
        cutoff_hz: frequency whose amplitude is halved.
        weights: [N] confidence, >= 0; 1 where not given.
    """
    count = len(values)
    if count < 3:
        return values.copy()
    weights = np.ones(count) if weights is None else weights
    step = np.diff(times)
    spacing = float(np.median(step))
    # response of the continuous smoother: 1 / (1 + l w^4), in units of the median spacing; half at w = cutoff
    strength = 1.0 / (2 * np.pi * min(cutoff_hz, 0.5 / spacing) * spacing) ** 4
    before, after = step[:-1] / spacing, step[1:] / spacing
    scale = 2 / (before + after)
    rows = np.stack([scale / before, -scale * (1 / before + 1 / after), scale / after])
    penalty = (before + after) / 2 * strength
    bands = np.zeros((3, count))
    bands[2] = weights + 1e-9
    for offset in range(3):
        for a in range(3 - offset):
            b = a + offset
            target = np.arange(count - 2) + b
            np.add.at(bands[2 - offset], target, penalty * rows[a] * rows[b])
    return solveh_banded(bands, weights[:, None] * values)


def adaptive(
    values: Float[np.ndarray, "N D"],
    times: Float[np.ndarray, " N"],
    cutoff_hz: float,
    still_hz: float,
    weights: Float[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, "N D"]:
    """Smooths to `cutoff_hz` where something moves and to `still_hz` where there is nothing but noise.

    What lies between the two bands is kept as far as it exceeds there what white noise would put into it (a Wiener
    gain, local in time, one for all columns); the noise is what the upper band takes away.

    Args:
        values: [N, D] samples; columns of one unit and one noise.
        times: [N] seconds, strictly increasing.
        cutoff_hz: half-amplitude frequency of the moving parts.
        still_hz: that of the still parts, lower.
        weights: [N] confidence, >= 0; frames of weight 0 are bridged.
    """
    count = len(values)
    if count < 8:
        return whittaker(values, times, cutoff_hz, weights)
    known = np.ones(count) if weights is None else weights
    quick, slow = (whittaker(values, times, hz, weights) for hz in (cutoff_hz, still_hz))
    between, removed = ((a - b) ** 2 for a, b in ((quick, slow), (values, quick)))
    rate = 1 / float(np.median(np.diff(times)))
    frequencies = np.linspace(0, rate / 2, 256)
    pass_quick, pass_slow = (1 / (1 + (frequencies / min(hz, rate / 2)) ** 4) for hz in (cutoff_hz, still_hz))
    share = float(((pass_quick - pass_slow) ** 2).mean() / ((1 - pass_quick) ** 2).mean())
    noise = share * np.median(removed[known > 0], axis=0) / MEDIAN_OF_SQUARE
    excess = (between / np.maximum(noise, 1e-18)).mean(axis=1, keepdims=True)
    energy = whittaker(excess, times, 1 / ADAPTIVE_WINDOW_SECONDS, known).clip(0)
    gain = np.clip(1 - NOISE_MARGIN / np.maximum(energy, 1e-9), 0, 1)
    return slow + gain * (quick - slow)


def bridge(values: Float[np.ndarray, "N D"], times: Float[np.ndarray, " N"], valid: Bool[np.ndarray, " N"]):
    """Rows that are not valid, interpolated from their valid neighbours (held at the ends). [N, D]"""
    if valid.all():
        return values
    return columns_at(times, times[valid], values[valid])
