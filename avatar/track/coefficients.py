"""The built-in coefficient solver: 52 ARKit coefficients from the mesh landmarks alone, nothing to download.

A small network (weights in `data/coefficients.safetensors`) reads the landmarks after roll, place and size are taken
out; it was distilled from Google's Face Landmarker by `scripts/train_coefficient_solver.py`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32
from safetensors.numpy import load_file

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES
from avatar.geometry import nearest_rotation
from avatar.track.mesh import DATA, RIGID, mean_head
from avatar.track.smooth import whittaker

CHUNK = 256
"""Frames that are handled at once."""
SOLVER_FILE = "coefficients.safetensors"
FAST = tuple(i for i, n in enumerate(BLENDSHAPES) if n.startswith(("eyeBlink", "eyeLook", "eyeWide", "eyeSquint")))
"""Coefficients whose real motion is about as fast as the frames (blinks, glances)."""
SPEECH_CUTOFF_HZ, FAST_CUTOFF_HZ, SLOW_CUTOFF_HZ = 9.0, 11.0, 5.0
"""Half-power frequencies of the smoothing: lips (a p or b closes them for 80 ms), lids and gaze, brows and cheeks."""
CLOSED_WEIGHT = 3.0
"""Extra weight of frames with closed lips or lids in the smoothing, so that closures keep their depth."""


@lru_cache
def _solver() -> dict[str, np.ndarray]:
    return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in load_file(DATA / SOLVER_FILE).items()}


def frontal(landmarks: Float[np.ndarray, "N 478 3"]) -> Float[np.ndarray, "N 478 3"]:
    """Mesh landmarks (px, y down, depth as the detector gives it) in head space: pose and scale taken out, cm.

    A similarity transform carries each frame's rigid points onto the mean head's.
    """
    rigid = list(RIGID)
    points = landmarks.astype(np.float64)
    target = mean_head()[rigid]
    centre = points[:, rigid].mean(axis=1, keepdims=True)
    local = points - centre
    middle = target.mean(axis=0)
    spread = np.einsum("lj,nlk->njk", target - middle, local[:, rigid])
    rotation = nearest_rotation(spread)
    scale = (rotation * spread).sum((1, 2)) / (local[:, rigid] ** 2).sum((1, 2))
    return scale[:, None, None] * (local @ np.swapaxes(rotation, 1, 2)) + middle


def upright(landmarks: Float[np.ndarray, "N 478 D"], by: Float[np.ndarray, "N 478 E"]) -> Float[np.ndarray, "N 478 2"]:
    """Landmarks in the picture with the head's roll, place and size taken out, in centimetres of the mean head.

    Args:
        landmarks: [N, 478, 2 or more] px.
        by: the landmarks whose rigid points define roll, place and size (the same ones, usually).
    """
    eyes = by[:, 263, :2] - by[:, 33, :2]
    cosine, sine = (eyes / np.linalg.norm(eyes, axis=1, keepdims=True)).T
    turn = np.stack([np.stack([cosine, sine], 1), np.stack([-sine, cosine], 1)], axis=1)
    rigid = by[:, list(RIGID), :2]
    centre = rigid.mean(axis=1, keepdims=True)
    mean_spread = np.sqrt(np.var(mean_head()[list(RIGID), :2], axis=0).sum())
    scale = mean_spread / np.sqrt(((rigid - centre) ** 2).sum(-1).mean(-1))
    return (landmarks[..., :2] - centre) @ np.swapaxes(turn, 1, 2) * scale[:, None, None]


def features(landmarks: Float[np.ndarray, "N 478 D"], points: np.ndarray) -> Float32[np.ndarray, "N F"]:
    """What the network reads: the chosen upright points, cm."""
    seen = landmarks.astype(np.float64)
    return upright(seen, seen)[:, points].reshape(len(landmarks), -1).astype(np.float32)


def solve_coefficients(landmarks: Float[np.ndarray, "N 478 3"]) -> Float32[np.ndarray, "N 52"]:
    """Coefficients 0..1 of each frame on its own, in the order of conventions.BLENDSHAPES.

    Args:
        landmarks: [N, 478, 3] px and the detector's relative depth.
    """
    net = _solver()
    parts = [_run(net, landmarks[i : i + CHUNK]) for i in range(0, len(landmarks), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, len(BLENDSHAPES)), np.float32)


def _run(net: dict[str, np.ndarray], landmarks: np.ndarray) -> np.ndarray:
    hidden = (features(landmarks, net["points"]) - net["mean"]) / net["scale"]
    layers = sum(1 for name in net if name.startswith("weight"))
    for k in range(layers):
        hidden = hidden @ net[f"weight{k}"].T + net[f"bias{k}"]
        if k < layers - 1:
            hidden = np.maximum(hidden, 0)
    out = np.zeros((len(landmarks), len(BLENDSHAPES)), np.float32)
    out[:, net["outputs"]] = 1 / (1 + np.exp(-hidden))
    return out


def steady_coefficients(
    raw: Float[np.ndarray, "N 52"], times: Float[np.ndarray, " N"], valid: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, "N 52"]:
    """Coefficients without frame-to-frame noise, zero phase; blinks and lip closures keep their depth.

    Frames that are not valid are bridged.
    """
    index = BLENDSHAPE_INDEX
    out = np.array(raw, dtype=np.float64)
    mouth = [i for i, n in enumerate(BLENDSHAPES) if n.startswith(("mouth", "jaw", "tongue"))]
    eyes = list(FAST)
    rest = [i for i in range(len(BLENDSHAPES)) if i not in mouth and i not in eyes]
    open_jaw = raw[:, index["jawOpen"]]
    blink = raw[:, [index["eyeBlinkLeft"], index["eyeBlinkRight"]]].mean(1)
    closed_lips = 1 + CLOSED_WEIGHT * np.clip(1 - open_jaw / (np.percentile(open_jaw[valid], 30) + 1e-3), 0, 1)
    closed_lids = 1 + CLOSED_WEIGHT * np.clip((blink - 0.3) / 0.3, 0, 1)
    for group, cutoff, weight in (
        (mouth, SPEECH_CUTOFF_HZ, closed_lips), (eyes, FAST_CUTOFF_HZ, closed_lids),
        (rest, SLOW_CUTOFF_HZ, np.ones(len(out))),
    ):  # fmt: skip
        out[:, group] = whittaker(raw[:, group].astype(np.float64), times, cutoff, weight * valid)
    return out.clip(0, 1)
