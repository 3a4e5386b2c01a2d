"""How well the held-out mouth is told from its sound, and what simpler ways of telling it reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from avatar.conventions import MOUTH_BLENDSHAPES, MOUTH_INDICES
from avatar.geometry import columns_at
from avatar.speech.hearing import heard
from avatar.speech.model import COLUMNS_PER_TOKEN, TOKEN_RATE, SpeechModel, token_times
from avatar.speech.targets import ACTIVE_SPREAD, JAW
from avatar.types import SpeechFeatures, Track

_NEIGHBOUR_TOKENS = 11  # sound compared by the nearest-neighbour baseline: 0.2 s around the moment
_MINIMUM_FRAMES = 8


def correlation(a: Float[Tensor, "n D"], b: Float[Tensor, "n D"]) -> Float[Tensor, " D"]:
    """Pearson correlation per column; 0 where a column does not move."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-9)


@torch.no_grad()
def predict_at(model: SpeechModel, features: SpeechFeatures, times: Float[np.ndarray, " N"]) -> np.ndarray:
    """Mouth coefficients (N, D) at `times` (seconds, on the features' clock)."""
    said = whole_mouth(model, features.log_mel, features.encoded)
    return interpolated(times, token_times(features.times), said)


@torch.no_grad()
def whole_mouth(
    model: SpeechModel, log_mel: Float32[np.ndarray, "T M"], encoded: Float32[np.ndarray, "n W"] | None = None
) -> Float32[np.ndarray, "n D"]:
    """What a stream makes of a whole sound, token by token (times: `token_times`).

    Args:
        encoded: what a speech encoder says of each token; models that hear none leave it alone.
    """
    columns, share = heard(model, log_mel)
    rest = model.rest.cpu().numpy()
    more = None if encoded is None or not model.config.encoder_width else torch.from_numpy(encoded)[None]
    return rest + share * (model(torch.from_numpy(columns)[None], more)[0].numpy() - rest)


def interpolated(
    times: Float[np.ndarray, " N"], token_seconds: Float[np.ndarray, " n"], values: Float[np.ndarray, "n D"]
) -> Float[np.ndarray, "N D"]:
    """Linear between tokens, held at the ends."""
    return columns_at(times, token_seconds, values).astype(np.float32)


def heard_frames(features: SpeechFeatures, times: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """At which times there is sound to tell a mouth from: it ends before the pictures do where it lies later."""
    return (times >= features.times[0]) & (times <= features.times[-1])


def held_out_scores(
    model: SpeechModel, features: SpeechFeatures, track: Track, held_out_start: float
) -> dict[str, Any]:
    """Scores over the frames from `held_out_start` on; empty if too few of them show the face with sound.

    Active coefficients are those that move in the training part (ACTIVE_SPREAD) and in the held-out part (half of it).
    """
    mouth = track.coefficients[:, list(MOUTH_INDICES)].astype(np.float64)
    with_sound = track.valid & heard_frames(features, track.times)
    train, test = with_sound & (track.times < held_out_start), with_sound & (track.times >= held_out_start)
    if test.sum() < _MINIMUM_FRAMES or train.sum() < _MINIMUM_FRAMES:
        return {}
    active = (mouth[train].std(axis=0) > ACTIVE_SPREAD) & (mouth[test].std(axis=0) > ACTIVE_SPREAD / 2)
    truth, frame_times = mouth[test], track.times
    ours = predict_at(model, features, frame_times[test])
    scores: dict[str, Any] = _row(ours, truth, active)
    scores["active"] = int(active.sum())
    scores["frames"] = int(test.sum())
    scores["correlations"] = {
        name: float(r) for name, r, on in zip(MOUTH_BLENDSHAPES, _correlations(ours, truth), active, strict=True) if on
    }
    energy = _energy(features, frame_times)
    design = np.stack([np.ones(len(energy)), energy], axis=1)
    solution, *_ = np.linalg.lstsq(design[train], mouth[train], rcond=None)
    scores["energy"] = _row(design[test] @ solution, truth, active)
    scores["nearest"] = _row(_nearest(features, frame_times, mouth, train, test), truth, active)
    mean_face = np.repeat(mouth[train].mean(axis=0)[None], len(truth), axis=0)
    scores["mean_face"] = _row(mean_face, truth, active)
    return scores


def _row(said: np.ndarray, truth: np.ndarray, active: np.ndarray) -> dict[str, float]:
    r = _correlations(said, truth)
    spread = truth[:, JAW].std()
    return {
        "jaw_correlation": float(r[JAW]),
        "mouth_correlation": float(r[active].mean()) if active.any() else 0.0,
        "lip_spread_ratio": float(said[:, JAW].std() / max(spread, 1e-9)),
        "mae": float(np.abs(said - truth)[:, active].mean()) if active.any() else 0.0,
    }


def _correlations(said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return correlation(torch.from_numpy(np.asarray(said, np.float64)), torch.from_numpy(truth)).numpy()


def _energy(features: SpeechFeatures, times: np.ndarray) -> Float[np.ndarray, " N"]:
    """Loudness smoothed over a tenth of a second."""
    loudness = np.convolve(features.log_mel.mean(axis=1), np.full(9, 1 / 9), mode="same")
    return np.interp(times, features.times, loudness)


def _nearest(
    features: SpeechFeatures, times: np.ndarray, mouth: np.ndarray, train: np.ndarray, test: np.ndarray
) -> Float[np.ndarray, "K D"]:
    """The mouth of the training frame whose sound is most alike."""
    tokens = len(features.log_mel) // COLUMNS_PER_TOKEN
    mel = features.log_mel[: tokens * COLUMNS_PER_TOKEN].reshape(tokens, COLUMNS_PER_TOKEN, -1).mean(axis=1)
    at = np.round((times - token_times(features.times)[0]) * TOKEN_RATE).astype(int)
    around = at[:, None] + np.arange(_NEIGHBOUR_TOKENS) - _NEIGHBOUR_TOKENS // 2
    sound = mel[around.clip(0, tokens - 1)].reshape(len(times), -1)
    known, asked = sound[train], sound[test]
    best = [int(((known - row) ** 2).sum(axis=1).argmin()) for row in asked]
    return mouth[train][best]
