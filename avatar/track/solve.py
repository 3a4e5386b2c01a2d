"""Joint solve over the clip: one focal length, a personal neutral head, a pose and an expression per frame.

Bundle adjustment of the 2D landmarks: alternates Gauss-Newton over every frame's pose and expression (frames are
independent given the head) with a linear solve for the neutral head given all frames; the focal length, which
trades against distance and face depth, is searched on the outside over a few dozen varied frames. Residuals are
weighted by how steady each landmark is and by Geman-McClure weights against outliers.
Everything is linear in the number of frames and handled in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int64

from avatar.geometry import matrix_from_rotvec, nearest_rotation, rotvec_from_matrix
from avatar.track.linear import geman_mcclure, normal_equations, solve
from avatar.track.mesh import RIGID, landmark_noise, mean_head
from avatar.track.parallel import ahead, batches
from avatar.track.smooth import adaptive, bridge

FOCAL_PRIOR = 2.2
"""Focal length over frame size of a head-and-shoulders crop from a phone, webcam or studio camera (26 degrees)."""
FOCAL_PRIOR_SIGMA = 0.35
"""Spread of log focal length around the prior: a factor of 1.4 either way."""
FOCAL_GRID = (1.1, 1.5, 2.0, 2.7, 3.6, 5.0)
"""Focal lengths over frame size that are tried before refining around the best."""
CHUNK = 16
"""Frames whose Jacobians are in memory at once: as many as a core's cache holds."""
LANDMARK_SIGMA = 0.0022
"""Standard error of the steadiest landmarks over the frame size (1.1 px at 512), measured on real clips."""
OUTLIER_SIGMAS = 4.0
"""Residuals beyond this many standard errors lose their influence (Geman-McClure)."""
EXPRESSION_SIGMA = 0.35
"""Spread of a coefficient around zero."""
EXPRESSION_SHARE = 0.995
"""Share of the prior's motion (in weighted landmarks) that the solved expression modes keep."""
HEAD_FRAMES = 160
"""Evenly spread frames from which the neutral head is solved."""
LEAST_FACING = 0.2
"""Cosine to the line of sight below which a point of a surface does not count."""
SHAPE_SIGMA = 0.45
"""How far a person's points lie from the mean head after smooth changes, cm."""


@dataclass(frozen=True)
class Poses:
    """Head pose and expression of every frame; camera_from_head = [rotation | translation]."""

    rotation: Float[np.ndarray, "N 3 3"]
    translation: Float[np.ndarray, "N 3"]
    expression: Float[np.ndarray, "N K"]

    def at(self, frames: Int64[np.ndarray, " n"] | Bool[np.ndarray, " N"] | slice) -> Poses:
        """Some of the frames."""
        return Poses(self.rotation[frames], self.translation[frames], self.expression[frames])


@dataclass(frozen=True)
class View:
    """The camera during the solve: focal length in px and the principal point in px."""

    focal: float
    centre: float

    def project(self, camera: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b 2"]:
        """Pixels of camera-space points."""
        return self.focal * camera[..., :2] / camera[..., 2:] + self.centre


@dataclass(frozen=True)
class Head:
    """Neutral head [478, 3] cm and its expression basis [K, 478, 3] cm per unit."""

    neutral: Float[np.ndarray, "L 3"]
    basis: Float[np.ndarray, "K L 3"]
    basis_mean: Float[np.ndarray, " K"]
    """Expression that frames are pulled towards."""
    basis_sigma: Float[np.ndarray, " K"]
    """How far expressions spread around it."""


@dataclass(frozen=True)
class Solution:
    """Result of the joint solve."""

    view: View
    head: Head
    poses: Poses
    residual: Float[np.ndarray, "N L 2"]
    """Landmarks minus reprojection, px."""


def solve_clip(
    landmarks: Float[np.ndarray, "N 478 3"], size: int, prior: Float[np.ndarray, "52 478 3"], rounds: int = 3
) -> Solution:
    """Camera, personal head, poses and expressions that explain the landmarks best.

    Args:
        landmarks: [N, 478, 3] px (x right, y down) and relative depth (smaller is nearer) of frames with a face.
        size: width and height of the frame, px.
        prior: [52, 478, 3] cm, how the landmarks move per unit coefficient.
        rounds: alternations between frames and head.
    """
    pixels = np.asarray(landmarks[..., :2], dtype=np.float64)
    weight = landmark_weights()
    varied = varied_frames(_rigid_shape(pixels), 48)
    view, neutral = _search_focal(landmarks[varied].astype(np.float64), size, weight)
    head = _expressive(Head(neutral, *_no_basis()), prior, weight)
    rotation, translation = weak_perspective(landmarks.astype(np.float64), neutral, view, weight)
    poses = Poses(rotation, translation, np.zeros((len(pixels), len(head.basis))))
    rigid = Head(neutral, *_no_basis())
    poses = replace(solve_frames(pixels, rigid, view, replace(poses, expression=poses.expression[:, :0]), weight, 4)[0],
                    expression=poses.expression)  # fmt: skip
    many = even_frames(len(pixels), HEAD_FRAMES)
    for _ in range(rounds):
        picked, _ = solve_frames(pixels[many], head, view, poses.at(many), weight, 3)
        head = replace(head, neutral=solve_neutral(pixels[many], head, view, picked, weight))
        head, fix_r, fix_t = _fix_gauge(head)
        poses = _regauge(poses, fix_r, fix_t)
    poses, residual = solve_frames(pixels, head, view, poses, weight, 4)
    return Solution(view, head, poses, residual)


def settle_head(pixels: Float[np.ndarray, "N 478 2"], head: Head, view: View, poses: Poses) -> tuple[Head, Poses]:
    """The neutral head that goes with poses and a camera found otherwise, in head space again, and the poses for it."""
    many = even_frames(len(pixels), HEAD_FRAMES)
    picked = poses.at(many)
    for _ in range(2):
        neutral = solve_neutral(pixels[many].astype(np.float64), head, view, picked, landmark_weights())
        head = replace(head, neutral=neutral)
    head, fix_r, fix_t = _fix_gauge(head)
    return head, _regauge(poses, fix_r, fix_t)


def landmark_weights() -> Float[np.ndarray, " 478"]:
    """Squared inverse of each landmark's noise: 1 for the steadiest."""
    return 1 / landmark_noise() ** 2


def weak_perspective(
    landmarks: Float[np.ndarray, "N 478 3"],
    neutral: Float[np.ndarray, "478 3"],
    view: View,
    weight: Float[np.ndarray, " 478"],
) -> tuple[Float[np.ndarray, "N 3 3"], Float[np.ndarray, "N 3"]]:
    """Rotation and translation from the detector's own relative depth: the start of the iteration."""
    share = weight / weight.sum()
    centre = np.einsum("l,nlj->nj", share, landmarks)
    head_centre = share @ neutral
    spread = np.einsum("l,nlj,lk->njk", share, landmarks - centre[:, None], neutral - head_centre)
    rotation = nearest_rotation(spread)
    pixels_per_cm = np.einsum("njk,njk->n", rotation, spread) / (share @ ((neutral - head_centre) ** 2).sum(1))
    depth = view.focal / pixels_per_cm
    xy = (centre[:, :2] - view.centre) * (depth / view.focal)[:, None]
    translation = np.concatenate([xy, depth[:, None]], axis=1) - rotation @ head_centre
    return rotation, translation


def solve_frames(
    pixels: Float[np.ndarray, "N L 2"],
    head: Head,
    view: View,
    poses: Poses,
    weight: Float[np.ndarray, " L"],
    iterations: int,
) -> tuple[Poses, Float[np.ndarray, "N L 2"]]:
    """Gauss-Newton over pose and expression of each frame on its own; returns them and the residuals in px."""

    chunks = batches(len(pixels), CHUNK)

    def solved_chunk(k: int):
        part = chunks[k]
        return _solve_chunk(pixels[part], head, view, poses.at(part), weight, iterations)

    parts = list(ahead(len(chunks), solved_chunk))
    solved = Poses(
        *(np.concatenate([getattr(p, n) for p, _ in parts]) for n in ("rotation", "translation", "expression"))
    )
    return solved, np.concatenate([r for _, r in parts])


def head_points(head: Head, expression: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N L 3"]:
    """Landmarks in head space, cm, under an expression."""
    return head.neutral + np.tensordot(expression, head.basis, axes=1)


def _solve_chunk(pixels, head: Head, view: View, poses: Poses, weight, iterations: int):
    sigma = LANDMARK_SIGMA * view.centre * 2
    rotation, translation, expression = poses.rotation, poses.translation, poses.expression
    count, modes = len(pixels), expression.shape[1]
    residual, basis = np.zeros_like(pixels), head.basis.transpose(2, 1, 0).astype(np.float32)
    for step in range(iterations + 1):
        rotated = head_points(head, expression) @ np.swapaxes(rotation, 1, 2)
        camera = rotated + translation[:, None]
        residual = pixels - view.project(camera)
        if step == iterations:
            break
        influence = _influence(residual, weight, sigma)
        jacobian = np.empty((count, pixels.shape[1], 2, 6 + modes), np.float32)  # slopes need no more digits
        jacobian[..., :6] = pose_slope(rotated, camera, view.focal)
        if modes:
            _expression_slope(basis, rotation, camera, view.focal, out=jacobian[..., 6:])
        normal, gradient = (
            part.astype(np.float64)
            for part in normal_equations(
                jacobian.reshape(count, -1, 6 + modes),
                np.repeat(influence, 2, axis=1).astype(np.float32),
                residual.reshape(count, -1).astype(np.float32),
            )
        )
        if modes:
            pull = 1 / head.basis_sigma**2
            index = np.arange(6, 6 + modes)
            normal[:, index, index] += pull
            gradient[:, 6:] -= pull * (expression - head.basis_mean)
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(6 + modes)
        change = solve(normal, gradient)
        rotation = matrix_from_rotvec(change[:, :3]) @ rotation
        translation = translation + change[:, 3:6]
        expression = expression + change[:, 6:]
    return Poses(rotation, translation, expression), residual


def _expression_slope(basis, rotation, camera, focal: float, out) -> None:
    """d pixel / d expression of landmarks [n, L, 2, K], given the basis [3, L, K]."""
    moved = (rotation.astype(np.float32).reshape(-1, 3) @ basis.reshape(3, -1)).reshape(-1, *basis.shape)
    near = focal / camera[..., 2:]
    aside = (near * camera[..., :2] / camera[..., 2:]).astype(np.float32)
    near = near.astype(np.float32)
    for row in range(2):
        np.multiply(near, moved[:, row], out=out[:, :, row])
        out[:, :, row] -= aside[..., row, None] * moved[:, 2]


def solve_neutral(
    pixels: Float[np.ndarray, "N L 2"], head: Head, view: View, poses: Poses, weight: Float[np.ndarray, " L"]
) -> Float[np.ndarray, "L 3"]:
    """The neutral head that explains all frames best, near the mean head (linear, 3 unknowns per point).

    A frame's errors are shared by all its points and drift slowly, so that frames are not independent
    measurements: together they count as a few, and the mean head keeps its say where poses vary little.
    """
    sigma = LANDMARK_SIGMA * view.centre * 2
    rotated = head_points(head, poses.expression) @ np.swapaxes(poses.rotation, 1, 2)
    camera = rotated + poses.translation[:, None]
    residual = pixels - view.project(camera)
    influence = _influence(residual, weight, sigma)
    jacobian = pose_slope(rotated, camera, view.focal)[..., 3:] @ poses.rotation[:, None]
    effective, points = min(1.0, 20 / len(pixels)), pixels.shape[1]
    normal, gradient = normal_equations(
        jacobian.swapaxes(0, 1).reshape(points, -1, 3),
        effective * np.repeat(influence.T, 2, axis=1),
        residual.swapaxes(0, 1).reshape(points, -1),
    )
    target = _similarity(mean_head(), head.neutral, weight)
    pull = 1 / SHAPE_SIGMA**2
    normal += pull * np.eye(3)
    gradient += pull * (target - head.neutral)
    return head.neutral + solve(normal, gradient)


def smooth_poses(
    poses: Poses, times: Float[np.ndarray, " N"], valid: Bool[np.ndarray, " N"], cutoff_hz: float, still_hz: float
) -> Poses:
    """Rotation and translation without jitter and without lag; frames that are not valid are bridged.

    Motion is kept up to `cutoff_hz`, a still head's up to `still_hz` only.
    """
    base = nearest_rotation(poses.rotation[valid].mean(0))
    turns = rotvec_from_matrix(base.T @ poses.rotation)
    weights = valid.astype(np.float64)
    # bridged in a line: where nothing was measured, a smoother goes on as it went, out of the picture in a second
    turns, places = (
        bridge(adaptive(motion, times, cutoff_hz, still_hz, weights), times, valid)
        for motion in (turns, poses.translation)
    )
    return Poses(base @ matrix_from_rotvec(turns), places, poses.expression)


def _influence(residual, weight, sigma: float):
    """Weight of each landmark in each frame: steadiness over variance, less for outliers. [N, L]"""
    squared = (residual**2).sum(-1) * weight / (OUTLIER_SIGMAS * sigma) ** 2
    return weight / sigma**2 * geman_mcclure(squared)


def seen_share(cosine):
    """How much a point of a surface counts, 0..1, whose normal has this cosine to the line of sight."""
    return np.clip((cosine - np.float32(LEAST_FACING)) * np.float32(1 / 0.4), 0, 1)


def pose_slope(rotated: Float[np.ndarray, "*b 3"], camera: Float[np.ndarray, "*b 3"], focal: float):
    """d pixel / d (small turn, shift) of points, given them turned and turned and shifted. [..., 2, 6]"""
    slope = np.zeros((*camera.shape[:-1], 2, 6))
    x, y, z = np.moveaxis(rotated, -1, 0)
    near = focal / camera[..., 2]
    for row in range(2):
        deep = -near * camera[..., row] / camera[..., 2]
        slope[..., row, 0], slope[..., row, 1] = y * deep, -x * deep
        slope[..., row, 3 + row], slope[..., row, 5] = near, deep
    slope[..., 0, 1] += z * near
    slope[..., 0, 2] = -y * near
    slope[..., 1, 0] -= z * near
    slope[..., 1, 2] = x * near
    return slope


def small_turn(rotation: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b 3"]:
    """Rotation vectors of turns of a few degrees, from the antisymmetric part."""
    off = 0.5 * (rotation - np.swapaxes(rotation, -1, -2))
    return np.stack([off[..., 2, 1], off[..., 0, 2], off[..., 1, 0]], axis=-1)


def _no_basis():
    return np.zeros((0, 478, 3)), np.zeros(0), np.ones(0)


def _expressive(head: Head, prior: Float[np.ndarray, "52 478 3"], weight: Float[np.ndarray, " 478"]) -> Head:
    """The head with the prior's coefficients as modes: the few orthogonal ones of unit spread that move most.

    Coefficients overlap much in what they move (left and right lips, brows), so that half as many modes say the same.
    """
    loud = (EXPRESSION_SIGMA * prior.astype(np.float64) * np.sqrt(weight)[:, None]).reshape(len(prior), -1)
    _, size, modes = np.linalg.svd(loud, full_matrices=False)
    count = int(np.searchsorted(np.cumsum(size**2), EXPRESSION_SHARE * (size**2).sum())) + 1
    basis = (size[:count, None] * modes[:count]).reshape(count, *prior.shape[1:]) / np.sqrt(weight)[:, None]
    return replace(head, basis=basis, basis_mean=np.zeros(count), basis_sigma=np.ones(count))


def _search_focal(landmarks, size: int, weight):
    """Focal length and rigid personal head that fit varied frames best, with a weak prior on the focal length."""
    tried = list(FOCAL_GRID)
    costs = list(ahead(len(tried), lambda k: _focal_cost(landmarks, size, tried[k], weight)))
    order = int(np.argmin([c for c, _ in costs]))
    if 0 < order < len(tried) - 1:
        x = np.log(tried[order - 1 : order + 2])
        y = np.array([c for c, _ in costs[order - 1 : order + 2]])
        a, b, _ = np.polyfit(x, y, 2)
        ratio = float(np.exp(np.clip(-b / (2 * a), x[0], x[2]))) if a > 0 else tried[order]
    else:
        ratio = tried[order]
    return View(ratio * size, size / 2), _focal_cost(landmarks, size, ratio, weight)[1]


def _focal_cost(landmarks, size: int, ratio: float, weight) -> tuple[float, Float[np.ndarray, "478 3"]]:
    view = View(ratio * size, size / 2)
    head = Head(mean_head(), *_no_basis())
    rotation, translation = weak_perspective(landmarks, head.neutral, view, weight)
    poses = Poses(rotation, translation, np.zeros((len(landmarks), 0)))
    pixels = landmarks[..., :2]
    residual = np.zeros_like(pixels)
    for _ in range(4):
        poses, residual = solve_frames(pixels, head, view, poses, weight, 3)
        head = replace(head, neutral=solve_neutral(pixels, head, view, poses, weight))
        head, fix_r, fix_t = _fix_gauge(head)
        poses = _regauge(poses, fix_r, fix_t)
    sigma = LANDMARK_SIGMA * size
    squared = (residual**2).sum(-1) * weight / (OUTLIER_SIGMAS * sigma) ** 2
    fit = OUTLIER_SIGMAS**2 * (squared / (1 + squared)).sum() * min(1.0, 20 / len(pixels))
    shape = (((head.neutral - _similarity(mean_head(), head.neutral, weight)) / SHAPE_SIGMA) ** 2).sum()
    # points are far from independent, the detector errs smoothly over the face and with the head's turn; on the demo
    # capture, whose focal length is known, one in sixty may count
    prior = (np.log(ratio / FOCAL_PRIOR) / FOCAL_PRIOR_SIGMA) ** 2
    return float((fit + shape) / 60 + prior), head.neutral


def _similarity(source, target, weight):
    """`source` carried onto `target` by the best rotation, translation and scale (weighted points)."""
    share = weight / weight.sum()
    a, b = share @ source, share @ target
    spread = np.einsum("l,lj,lk->jk", share, target - b, source - a)
    rotation = nearest_rotation(spread)
    scale = (rotation * spread).sum() / (share @ ((source - a) ** 2).sum(1))
    return scale * (source - a) @ rotation.T + b


def _fix_gauge(head: Head):
    """Moves and scales the neutral head so that its steady points lie on the mean head's; what poses must undo.

    Scale, origin and axes of head space are free in the solve; they are tied to the mean head here.
    """
    rigid = list(RIGID)
    share = np.zeros(len(head.neutral))
    share[rigid] = 1
    share /= share.sum()
    a, b = share @ head.neutral, share @ mean_head()
    spread = np.einsum("l,lj,lk->jk", share, mean_head() - b, head.neutral - a)
    rotation = nearest_rotation(spread)
    scale = float(np.sqrt((share @ ((mean_head() - b) ** 2).sum(1)) / (share @ ((head.neutral - a) ** 2).sum(1))))
    neutral = scale * (head.neutral - a) @ rotation.T + b
    return replace(head, neutral=neutral), rotation, (scale, a, b)


def _regauge(poses: Poses, fix_rotation, fix) -> Poses:
    """Poses for the head after `_fix_gauge`: old = R^T (new - b) / s + a, and the whole scene scaled by s."""
    scale, a, b = fix
    rotation = poses.rotation @ fix_rotation.T
    translation = scale * (poses.translation + poses.rotation @ a) - rotation @ b
    return Poses(rotation, translation, poses.expression)


def even_frames(count: int, most: int) -> Int64[np.ndarray, " n"]:
    """At most `most` of `count` frames, evenly spread from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def varied_frames(shapes: Float[np.ndarray, "N D"], count: int) -> Int64[np.ndarray, " count"]:
    """Indices of `count` frames whose rows differ most from each other (farthest-point sampling), sorted."""
    picked = [int(((shapes - np.median(shapes, axis=0)) ** 2).sum(1).argmin())]
    distance = ((shapes - shapes[picked[0]]) ** 2).sum(1)
    while len(picked) < min(count, len(shapes)):
        picked.append(int(distance.argmax()))
        distance = np.minimum(distance, ((shapes - shapes[picked[-1]]) ** 2).sum(1))
    return np.sort(picked)


def _rigid_shape(pixels):
    """Arrangement of the steady points in each frame, place and size taken out. [N, 2 R]"""
    rigid = pixels[:, list(RIGID)]
    rigid = rigid - rigid.mean(axis=1, keepdims=True)
    return (rigid / np.sqrt((rigid**2).sum(axis=(1, 2), keepdims=True))).reshape(len(pixels), -1)
