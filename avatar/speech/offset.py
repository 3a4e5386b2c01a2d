"""How late a clip's sound is against its picture, from how well each shift lets the sound explain the mouth.

For every shift a small linear regression predicts lip opening, mouth width and jawOpen from the smoothed log-mel of
that one moment, scored on parts of the clip it was not fitted to. Plain energy against mouth opening (as in
Chandrasekaran et al. 2009) has a far flatter peak, because fricatives are loud with a closed mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from avatar.conventions import BLENDSHAPE_INDEX, HELD_OUT_FRACTION
from avatar.geometry import columns_at
from avatar.types import Track

SEARCH_SECONDS = 0.300
"""Largest shift looked for, either way."""
STEP_SECONDS = 0.010
NATURAL_LAG_SECONDS = 0.035
"""The mouth's shape leads the sound it makes: with sound and picture in step the best shift is about this."""
MINIMUM_SECONDS = 6.0
"""Of voiced picture; less cannot tell shifts apart."""
MINIMUM_CORRELATION = 0.25
"""Below it the sound does not explain the mouth (dubbing, music, someone else speaking)."""
MINIMUM_LEAD = 0.10
"""How far the peak must stand above shifts that are another sound's (beyond NEIGHBOURHOOD_SECONDS)."""
NEIGHBOURHOOD_SECONDS = 0.130
"""Shifts closer than this share the same syllable, so they score nearly as well."""
AGREEMENT_SECONDS = 0.080
"""How far the halves of the clip may disagree."""
IGNORED_SECONDS = 0.025
"""Offsets below it cannot be seen and are within the error of the estimate."""

_BANDS = 16
_SMOOTHING_COLUMNS = 7
_FOLDS = 6
_RIDGE = 30.0  # in frames; the regressors are standardised

# Face mesh points: inner lips above and below, mouth corners, outer eye corners.
_UPPER_LIP, _LOWER_LIP, _CORNERS, _EYES = 13, 14, (61, 291), (33, 263)


@dataclass(frozen=True)
class OffsetEstimate:
    """How much later the sound is than the picture."""

    seconds: float
    """Best estimate, natural lag taken off."""
    correlation: float
    """Between the mouth and what the sound says of it, at the best shift, on parts not fitted to."""
    confident: bool
    """Worth acting on: the peak is high, stands alone, and both halves of the clip show it."""


def mouth_signals(track: Track) -> Float[np.ndarray, "N 3"]:
    """Lip opening and mouth width in units of the eye distance, and jawOpen, per frame."""
    points = track.landmarks.astype(np.float64)

    def distance(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(points[:, a] - points[:, b], axis=1)

    eyes = np.maximum(distance(*_EYES), 1.0)  # px; never 0 for a face
    jaw = track.coefficients[:, BLENDSHAPE_INDEX["jawOpen"]]
    return np.stack([distance(_UPPER_LIP, _LOWER_LIP) / eyes, distance(*_CORNERS) / eyes, jaw], axis=1)


def estimate_offset(
    log_mel: Float32[np.ndarray, "T M"], times: Float[np.ndarray, " T"], track: Track
) -> OffsetEstimate:
    """Estimates how much later the sound is than the picture, in -SEARCH_SECONDS..SEARCH_SECONDS.

    Args:
        log_mel: columns of the clip's sound.
        times: their times in seconds from the first frame, as the file says.
        track: the clip's track; its held-out end is not looked at.
    """
    shifts = np.arange(-SEARCH_SECONDS, SEARCH_SECONDS + STEP_SECONDS / 2, STEP_SECONDS) + NATURAL_LAG_SECONDS
    frame_times = track.times
    end = frame_times[-1] * (1 - HELD_OUT_FRACTION)
    usable = track.valid & (frame_times < end)
    usable &= (frame_times + shifts[0] >= times[0]) & (frame_times + shifts[-1] <= times[-1])
    at = frame_times[usable]
    if len(at) < 2 * _FOLDS or at[-1] - at[0] < MINIMUM_SECONDS:
        return OffsetEstimate(0.0, 0.0, False)
    signals, bands = mouth_signals(track)[usable], _smoothed_bands(log_mel)
    curve = _score_curve(bands, times, at, signals, shifts)
    best = int(curve.argmax())
    middle = len(at) // 2
    halves = [_score_curve(bands, times, at[h], signals[h], shifts) for h in (slice(0, middle), slice(middle, None))]
    disagreement = max(abs(shifts[int(c.argmax())] - shifts[best]) for c in halves)
    elsewhere = curve[np.abs(shifts - shifts[best]) > NEIGHBOURHOOD_SECONDS].max()
    confident = (
        0 < best < len(shifts) - 1
        and curve[best] >= MINIMUM_CORRELATION
        and curve[best] - elsewhere >= MINIMUM_LEAD
        and disagreement <= AGREEMENT_SECONDS
    )
    seconds = _refined_peak(shifts, curve, best) - NATURAL_LAG_SECONDS
    return OffsetEstimate(float(seconds), float(curve[best]), bool(confident))


def _smoothed_bands(log_mel: Float32[np.ndarray, "T M"]) -> Float[np.ndarray, "T bands"]:
    grouped = np.stack([g.mean(axis=1) for g in np.array_split(log_mel.astype(np.float64), _BANDS, axis=1)], axis=1)
    kernel = np.hanning(_SMOOTHING_COLUMNS + 2)[1:-1]
    kernel /= kernel.sum()
    return np.stack([np.convolve(band, kernel, mode="same") for band in grouped.T], axis=1)


def _score_curve(
    bands: np.ndarray, times: np.ndarray, at: np.ndarray, signals: np.ndarray, shifts: np.ndarray
) -> Float[np.ndarray, " shifts"]:
    """Mean over the mouth signals of the out-of-fold correlation, for every shift."""
    scores = []
    for shift in shifts:
        x = columns_at(at + shift, times, bands)
        scores.append(_out_of_fold_correlation(x, signals))
    # A maximum over neighbouring shifts of a noisy curve wanders; a short average does not.
    return np.convolve(np.pad(scores, 2, mode="edge"), np.full(5, 0.2), mode="valid")


def _out_of_fold_correlation(x: Float[np.ndarray, "n bands"], y: Float[np.ndarray, "n signals"]) -> float:
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    fold = np.arange(len(x)) * _FOLDS // len(x)
    predicted, true = np.empty_like(y), np.empty_like(y)
    for k in range(_FOLDS):
        fit, test = fold != k, fold == k
        centre = x[fit].mean(axis=0)
        gram = (x[fit] - centre).T @ (x[fit] - centre) + _RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (x[fit] - centre).T @ (y[fit] - y[fit].mean(axis=0)))
        predicted[test] = x[test] @ weights - (x[test] @ weights).mean(axis=0)
        true[test] = y[test] - y[test].mean(axis=0)  # slow changes of expression are not what is aligned
    spread = np.linalg.norm(predicted, axis=0) * np.linalg.norm(true, axis=0)
    return float(((predicted * true).sum(axis=0) / np.maximum(spread, 1e-12)).mean())


def _refined_peak(shifts: np.ndarray, curve: np.ndarray, best: int) -> float:
    """Vertex of the parabola through the peak and its neighbours."""
    if not 0 < best < len(shifts) - 1:
        return float(shifts[best])
    left, top, right = curve[best - 1 : best + 2]
    bend = left - 2 * top + right
    return float(shifts[best] + (0.5 * (left - right) / bend * STEP_SECONDS if bend < 0 else 0.0))
