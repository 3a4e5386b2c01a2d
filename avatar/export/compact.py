"""Motion bases in few bytes: transform coding of the K bases of a branch.

Weights of different bases move together and by different amounts, so a basis is first rotated into the principal
axes of what the branch really does (the Karhunen-Loeve transform, optimal for a given rate; see Goyal, "Theoretical
foundations of transform coding", 2001): ``w' = mix @ w`` has unit covariance over typical motion, and the new bases
are orthogonal and sorted by the visible motion they carry. Then every basis takes the same step, and those that
hardly move anything cost hardly anything. The player applies `mix` last: the limits of motion (`avatar.model.limits`)
are those of the model's own weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int16

from avatar.conventions import BLENDSHAPES, BRANCHES
from avatar.dataset import MotionBatch, motion_tensors
from avatar.model import Avatar
from avatar.model.gaussians import BASIS_COLUMNS
from avatar.speech.person import poses_from_offsets
from avatar.types import Motion

POSITION_COLUMNS = 3
"""The first columns of a basis, stored in int16; the rest in int8."""

STEPS = {"means": 0.0006, "quats": 0.004, "log_scales": 0.0045, "colors": 0.0015, "opacity_logits": 0.016}
"""Step per column of a basis, for a weight that is 1 as often as -1: cm, and the attribute's own unit. A presenter at
512 px comes out at 52 dB and more within their range of expression, with 0.15 MB per 1000 Gaussians."""

MODE_STEP_CM = 0.006
"""Step of a mode's positions at the largest weight that one coefficient gives it."""
_ALONE = (1.0, 0.6)
_MIXTURES = 150
_POSE_SPREAD = np.array([0.10, 0.12, 0.06, 1.0, 0.7, 1.5])  # rotation vector (rad) and shift (cm) of a lively head
_TORSO_SPREAD = np.array([0.03, 0.03, 0.03, 0.5, 0.3, 0.5])


@dataclass(frozen=True)
class CompactBases:
    """Bases of one branch as the player stores them: value = integer * scale."""

    positions: np.ndarray
    """(K, 3, N) int16 offsets of the mean, or float32."""
    rest: np.ndarray
    """(K, 11, N) int8: quats 4, log_scales 3, colors 3, opacity_logits 1; or float32."""
    scale: Float[np.ndarray, "K 14"]
    mix: Float[np.ndarray, "K K"]
    """From the model's basis weights to those of these bases."""
    modes: np.ndarray
    """(M, 3, N) int16 offsets of the mean by the modes of the geometric prior (see `model.beyond`), or float32."""
    mode_scale: Float[np.ndarray, " M"]


def typical_motion(avatar: Avatar) -> Motion:
    """What the bases must be good at: every coefficient alone, and mixtures in the person's manner, in lively poses."""
    random = np.random.default_rng(0)
    count, n = len(BLENDSHAPES), len(BLENDSHAPES) * len(_ALONE) + _MIXTURES
    person = avatar.person
    motion = avatar.rest_motion(np.arange(n) / 25)
    coefficients = motion.coefficients.copy()
    for block, value in enumerate(_ALONE):
        coefficients[np.arange(count) + block * count, np.arange(count)] = value
    mixtures = person.mean + person.std * random.normal(size=(_MIXTURES, count))
    coefficients[-_MIXTURES:] = mixtures.clip(0, 1)
    offsets = random.normal(size=(n, 6)) * _POSE_SPREAD
    torso = 0.3 * offsets + random.normal(size=(n, 6)) * _TORSO_SPREAD
    return Motion(
        motion.times,
        coefficients,
        poses_from_offsets(offsets, person.neutral_head),
        poses_from_offsets(torso, person.neutral_torso),
    )


def typical_weights(avatar: Avatar) -> dict[str, Float[np.ndarray, "n K"]]:
    """Basis weights of each branch over `typical_motion`."""
    with torch.no_grad():
        batch: MotionBatch = motion_tensors(typical_motion(avatar), avatar.model.backdrop.device)
        weights = avatar.model.weights(batch)
        return {n: w[:, : avatar.model.branch(n).basis_count].double().cpu().numpy() for n, w in weights.items()}


def head_space_bases(avatar: Avatar, name: str) -> Float[np.ndarray, "W 14 N"]:
    """Bases of a branch in the attributes' own units: the learned ones, then the modes."""
    branch = avatar.model.branch(name)
    bases = (branch.bases * branch.basis_units).detach().double().cpu().numpy()
    return np.ascontiguousarray(bases.transpose(0, 2, 1))


def exact_bases(avatar: Avatar) -> dict[str, CompactBases]:
    """Bases as they are, in float32."""
    out = {}
    for name in BRANCHES:
        bases, modes = np.split(head_space_bases(avatar, name).astype(np.float32), [_learned(avatar, name)])
        scale = np.ones(bases.shape[:2])
        positions, rest = bases[:, :POSITION_COLUMNS], bases[:, POSITION_COLUMNS:]
        modes = modes[:, :POSITION_COLUMNS]
        out[name] = CompactBases(positions, rest, scale, np.eye(len(bases)), modes, np.ones(len(modes)))
    return out


def compact_bases(avatar: Avatar) -> dict[str, CompactBases]:
    """Bases of every branch rotated and quantised."""
    weights, out = typical_weights(avatar), {}
    for name in BRANCHES:
        bases, modes = np.split(head_space_bases(avatar, name), [_learned(avatar, name)])
        out[name] = _compact(bases, weights[name], *_compact_modes(avatar, modes[:, :POSITION_COLUMNS]))
    return out


def _learned(avatar: Avatar, name: str) -> int:
    return avatar.model.branch(name).basis_count


def _compact_modes(
    avatar: Avatar, modes: Float[np.ndarray, "M 3 N"]
) -> tuple[Int16[np.ndarray, "M 3 N"], Float[np.ndarray, " M"]]:
    """Integers and their scales."""
    beyond = avatar.model.beyond
    if beyond is None or len(modes) == 0:
        return modes.astype(np.int16), np.ones(len(modes))
    scale = MODE_STEP_CM / np.maximum(beyond.mix.abs().amax(dim=0).double().cpu().numpy(), 1e-9)
    scale = np.maximum(scale, np.abs(modes).max(axis=(1, 2), initial=0.0) / np.iinfo(np.int16).max)
    return np.round(modes / scale[:, None, None]).astype(np.int16), scale


def _compact(
    bases: Float[np.ndarray, "K 14 N"],
    weights: Float[np.ndarray, "n K"],
    modes: Int16[np.ndarray, "M 3 N"],
    mode_scale: Float[np.ndarray, " M"],
) -> CompactBases:
    step = np.concatenate([np.full(width, STEPS[key]) for key, width, _ in BASIS_COLUMNS])
    mix = principal_mix(bases / step[:, None], weights)
    k = len(bases)
    rotated = np.linalg.solve(mix.T, bases.reshape(k, -1)).reshape(bases.shape)  # sum w b = sum (mix w) (mix^-T b)
    limit = np.where(np.arange(len(step)) < POSITION_COLUMNS, np.iinfo(np.int16).max, np.iinfo(np.int8).max)
    scale = np.maximum(step, np.abs(rotated).max(axis=2, initial=0.0) / limit)
    numbers = np.round(rotated / scale[:, :, None])
    positions, rest = numbers[:, :POSITION_COLUMNS].astype(np.int16), numbers[:, POSITION_COLUMNS:].astype(np.int8)
    return CompactBases(positions, rest, scale, mix, modes, mode_scale)


def principal_mix(bases: Float[np.ndarray, "K C N"], weights: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "K K"]:
    """The matrix that takes weights to uncorrelated ones of unit size whose bases are orthogonal, largest first.

    Args:
        bases: in units in which an error is equally visible in every column.
        weights: of typical motion.
    """
    k = len(bases)
    covariance = weights.T @ weights / len(weights)
    covariance += np.eye(k) * max(1e-6 * np.trace(covariance) / k, 1e-9)  # a weight that never moves keeps an inverse
    root = np.linalg.cholesky(covariance)
    whitened = root.T @ bases.reshape(k, -1)  # bases of the weights root^-1 w
    _, axes = np.linalg.eigh(whitened @ whitened.T)
    return axes[:, ::-1].T @ np.linalg.inv(root)
