"""What the speech model learns from a track: mouth coefficients at the tokens' times, and lips to learn along.

Two things are taken off before learning. Slow changes of expression (a smile that comes and goes over seconds) cannot
be heard; a network that is asked for them memorises the clip. And the scale: every coefficient counts by its spread.
The lips' shape in the picture is predicted beside the coefficients: it is the cleaner signal of the two, and what
predicts it predicts them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from torch import Tensor

from avatar.conventions import MOUTH_BLENDSHAPES, MOUTH_INDICES
from avatar.geometry import columns_at
from avatar.speech.model import TOKEN_RATE
from avatar.speech.offset import mouth_signals
from avatar.types import Track

SLOW_SECONDS = 0.6
"""Standard deviation of the average that counts as slow expression: a phrase, many syllables."""
LIP_COMPONENTS = 8
"""Principal components of the lips' shape that are learned along."""
ACTIVE_SPREAD = 0.01
"""Standard deviation from which a coefficient counts as moving."""
SMALLEST_SPREAD = 0.005
"""Coefficients that move less are not blown up to it."""
LARGEST_REST = 2.5
"""The resting mouth is at most this many spreads from the mean."""
CLOSING_SECONDS = 0.12
"""Lips that shut for a p, b or m are open again about this long before or after."""
FRAME_GAP_SECONDS = 0.1
"""A token further from a frame has no target."""
JAW = MOUTH_BLENDSHAPES.index("jawOpen")

# Face mesh points. Lips and chin are described in a frame carried by the eyes and nose, which speech does not move.
_LIPS = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146, 78, 191, 80, 81, 82, 13,
    312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95, 152, 148, 377,
)  # fmt: skip
_STEADY = (33, 263, 133, 362, 168, 6, 197, 195, 5, 4, 1)


@dataclass(frozen=True)
class SpeechTargets:
    """Everything on the tokens' clock. D coefficients; Z is D and the lip components (LIP_COMPONENTS at most)."""

    z: Float[Tensor, "n Z"]
    """Standardised targets, slow changes removed."""
    weight: Float[Tensor, " Z"]
    """Of each target in the loss; those of the coefficients sum to 1, those of the lips too."""
    known: Bool[np.ndarray, " n"]
    """The face was found at this time."""
    closing: Bool[np.ndarray, " n"]
    """The lips are shut for a moment between open ones, as for p, b and m."""
    mean: Float[Tensor, " D"]
    std: Float[Tensor, " D"]
    """What z = 0 and z = 1 of a coefficient mean."""
    active: Bool[np.ndarray, " D"]
    rest_z: Float[Tensor, " Z"]
    """Targets of the closed, relaxed mouth."""
    rest: Float[Tensor, " D"]
    """Coefficients of the closed, relaxed mouth."""
    low: Float[Tensor, " D"]
    high: Float[Tensor, " D"]
    """Plausible range."""


def speech_targets(track: Track, times: Float[np.ndarray, " n"]) -> SpeechTargets:
    """Targets at `times` (seconds); nothing of the track after the last of them is looked at."""
    frames = np.flatnonzero(track.valid & (track.times <= times[-1]))
    frame_times = track.times[frames]
    mouth = track.coefficients[frames][:, list(MOUTH_INDICES)].astype(np.float64)
    closed = closed_frames(track, frames)
    spread = mouth.std(axis=0)
    active = spread > ACTIVE_SPREAD
    weight = active + 0.1 * (~active & (spread > SMALLEST_SPREAD))
    z, mean, std = _fast_part(times, frame_times, mouth)
    rest = (mouth[closed].mean(axis=0) - mean) / std
    lips = _lip_components(track.landmarks[frames])
    if lips.shape[1]:
        lips_z, lips_mean, lips_std = _fast_part(times, frame_times, lips / lips.std(axis=0).max())
        lips_rest = ((lips / lips.std(axis=0).max())[closed].mean(axis=0) - lips_mean) / lips_std
        z, rest = np.concatenate([z, lips_z], axis=1), np.concatenate([rest, lips_rest])
        weight = np.concatenate([weight / max(weight.sum(), 1e-9), np.full(lips.shape[1], 1 / lips.shape[1])])
    low, high = plausible_range(mouth)
    return SpeechTargets(
        z=_tensor(z), weight=_tensor(weight), rest_z=_tensor(rest.clip(-LARGEST_REST, LARGEST_REST)),
        known=_known(times, track), closing=closing(times, track), mean=_tensor(mean), std=_tensor(std), active=active,
        rest=_tensor(mouth[closed].mean(axis=0)), low=_tensor(low), high=_tensor(high),
    )  # fmt: skip


def _fast_part(
    times: np.ndarray, frame_times: np.ndarray, values: Float[np.ndarray, "N D"]
) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Standardised values at `times` without their slow part, and the mean and spread that were taken off."""
    y = columns_at(times, frame_times, values)
    fast = y - gaussian_filter1d(y, SLOW_SECONDS * TOKEN_RATE, axis=0, mode="nearest")
    fast -= fast.mean(axis=0)
    std = np.maximum(fast.std(axis=0), SMALLEST_SPREAD)
    return fast / std, y.mean(axis=0), std


def plausible_range(
    values: Float[np.ndarray, "N D"],
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """The 0.5th to 99.5th percentile and a tenth of it on either side, within 0..1."""
    low, high = np.percentile(values, [0.5, 99.5], axis=0)
    margin = 0.1 * (high - low)
    return np.clip(low - margin, 0, 1), np.clip(high + margin, 0, 1)


def closed_frames(track: Track, frames: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
    """Which of `frames` show the mouth closed and relaxed: the tenth with the most closed lips and jaw, for a while."""
    opening, _, jaw = mouth_signals(track)[frames].T
    openness = sum((s - s.mean()) / max(s.std(), 1e-9) for s in (opening, jaw))
    # Closed for a p is no rest, so neighbouring frames count too.
    return np.argsort(gaussian_filter1d(openness, 2.0), kind="stable")[: max(1, len(frames) // 10)]


def _lip_components(landmarks: Float[np.ndarray, "N 478 2"]) -> Float[np.ndarray, "N K"]:
    points = landmarks.astype(np.float64)
    steady, lips = points[:, _STEADY], points[:, _LIPS]
    centre = steady.mean(axis=1, keepdims=True)
    reference = (steady - centre).mean(axis=0)
    if np.linalg.matrix_rank(reference, tol=1e-3) < 2:  # no face in the landmarks
        return np.zeros((len(points), 0))
    # One affine map per frame takes the steady points to their mean; it undoes head motion well enough.
    to_mean = np.linalg.pinv(steady - centre) @ reference
    shape = ((lips - centre) @ to_mean).reshape(len(points), -1)
    shape -= shape.mean(axis=0)
    _, strength, directions = np.linalg.svd(shape, full_matrices=False)
    kept = min(LIP_COMPONENTS, int((strength > 1e-6 * max(strength[0], 1e-9)).sum()))
    return shape @ directions[:kept].T


def closing(times: Float[np.ndarray, " n"], track: Track) -> Bool[np.ndarray, " n"]:
    """Where lips shut for a moment, from the picture: among the least open fifth, with the mouth half open shortly
    before or after. `times` are TOKEN_RATE a second."""
    frames = np.flatnonzero(track.valid & (track.times <= times[-1]))
    opening = np.interp(times, track.times[frames], mouth_signals(track)[frames, 0])
    around = maximum_filter1d(opening, 2 * round(CLOSING_SECONDS * TOKEN_RATE) + 1)
    return (opening <= np.percentile(opening, 20)) & (around > np.median(opening))


def _known(times: Float[np.ndarray, " n"], track: Track) -> Bool[np.ndarray, " n"]:
    after = np.searchsorted(track.times, times).clip(1, len(track.times) - 1)
    nearest = np.where(times - track.times[after - 1] < track.times[after] - times, after - 1, after)
    return track.valid[nearest] & (np.abs(track.times[nearest] - times) < FRAME_GAP_SECONDS)


def _tensor(values: np.ndarray) -> Float[Tensor, "..."]:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
