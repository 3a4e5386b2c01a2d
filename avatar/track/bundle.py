"""Bundle adjustment of the rigid head: poses, focal length and the place of every followed point, solved together.

Each point has a place of its own in head space, held to the mesh where the mesh covers it and nearly free elsewhere.
Skin moves with expression: a point may move with the clip's main modes of expression, as much as it likes where there
is skin and hardly where there is hair or an ear, so that what the expression explains does not turn the head. How far a
point strays from where it should be is measured along the way and sets its weight; points on loose hair, earrings or
the backdrop lose their say. The points are eliminated (Schur complement; Triggs et al., "Bundle adjustment", 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from avatar.geometry import matrix_from_rotvec, rotvec_from_matrix
from avatar.track.linear import geman_mcclure, normal_equations, solve, square
from avatar.track.parallel import ahead
from avatar.track.solve import View, pose_slope, small_turn

STEPS = 8
"""Gauss-Newton steps; the focal length settles last."""
FOCAL_SIGMA = 0.35
"""Trust in the landmarks' focal length (its logarithm)."""
FOCAL_FACTS = 30.0
"""Points err together (shading, expression, codec): so many count as one measurement against that trust."""
OUTLIER = 2.5
"""Standard deviations beyond which an observation loses its influence."""
CONVERGED = 0.003
"""Poses are found when no number changes by more than this part of its trust."""
LEAST_SCATTER = 0.15
"""No point is known better than this, px."""
SCATTER_FRAMES = 8.0
"""So many observations as the first guess of a point's scatter counts."""


@dataclass(frozen=True)
class Points:
    """Points of one keyframe: where they are and how they move with each of K modes of expression, head space, cm."""

    home: Float[np.ndarray, "M 3"]
    home_sigma: Float[np.ndarray, " M"]
    moves: Float[np.ndarray, "M K 3"]
    moves_sigma: Float[np.ndarray, " M"]
    scatter: Float[np.ndarray, " M"]
    """How far each strays from where it should be, px, standard deviation."""

    def at(self, modes: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n M 3"]:
        """The points under expressions."""
        return self.home + np.tensordot(modes, self.moves, axes=(1, 1))


@dataclass(frozen=True)
class Sightings:
    """Where a keyframe's points were seen in some of the bundle's frames, px."""

    frames: Int64[np.ndarray, " n"]
    pixels: Float[np.ndarray, "n M 2"]
    seen: Bool[np.ndarray, "n M"]


@dataclass(frozen=True)
class _Terms:
    """One keyframe's residuals [n, M, 2], their weights [n, M] and slopes by pose, point and log focal length."""

    residual: np.ndarray
    weight: np.ndarray
    by_pose: np.ndarray
    by_point: np.ndarray
    by_focal: np.ndarray


class Bundle:
    """State of the joint solve; `improve` takes one step."""

    def __init__(
        self,
        points: list[Points],
        sightings: list[Sightings],
        modes: Float[np.ndarray, "N K"],
        rotation: Float[np.ndarray, "N 3 3"],
        translation: Float[np.ndarray, "N 3"],
        view: View,
        pose_sigma: Float[np.ndarray, " 6"],
    ) -> None:
        self.points, self.rotation, self.translation, self.view = list(points), rotation, translation, view
        self._start = (list(points), rotation, translation, view)
        self._sightings, self._modes, self._hold = sightings, modes, pose_sigma**-2.0
        self._focal_hold = FOCAL_FACTS / FOCAL_SIGMA**2

    def improve(self) -> None:
        """One Gauss-Newton step on everything, after each point's scatter was measured anew."""
        count = len(self.rotation)
        normal, gradient = np.zeros((6 * count + 1,) * 2), np.zeros(6 * count + 1)
        back = []
        self.points = [self._rated(k) for k in range(len(self.points))]
        for k, (own_normal, own_gradient, follow) in enumerate(ahead(len(self.points), self._eliminated)):
            frames = self._sightings[k].frames
            index = np.append((6 * frames[:, None] + np.arange(6)).reshape(-1), 6 * count)
            normal[np.ix_(index, index)] += own_normal
            gradient[index] += own_gradient
            back.append((index, *follow))
        self._hold_to_start(normal, gradient)
        change = solve(normal, gradient)
        for k, (index, half, answer) in enumerate(back):
            reduced = answer[..., -1] - answer[..., :-1] @ change[index]
            moved = (half @ reduced[..., None]).reshape(len(half), -1, 3)
            old = self.points[k]
            self.points[k] = replace(old, home=old.home + moved[:, 0], moves=old.moves + moved[:, 1:])
        poses = change[:-1].reshape(-1, 6)
        self.rotation = matrix_from_rotvec(poses[:, :3]) @ self.rotation
        self.translation = self.translation + poses[:, 3:]
        self.view = replace(self.view, focal=float(self.view.focal * np.exp(change[-1])))

    def _hold_to_start(self, normal, gradient) -> None:
        """Adds the pull of poses and focal length towards where they began (distance follows the focal length)."""
        _, rotation, translation, view = self._start
        longer = np.log(self.view.focal / view.focal)
        turned = rotvec_from_matrix(rotation @ np.swapaxes(self.rotation, 1, 2))
        moved = translation * [1, 1, np.exp(longer)] - self.translation
        away = np.concatenate([turned, moved], axis=1).reshape(-1)
        hold = np.append(np.tile(self._hold, len(rotation)), self._focal_hold)
        normal += np.diag(hold)
        gradient += hold * np.append(away, -longer)

    def _residual(self, k: int):
        sighting = self._sightings[k]
        rotated = self.points[k].at(self._modes[sighting.frames]) @ np.swapaxes(self.rotation[sighting.frames], 1, 2)
        camera = rotated + self.translation[sighting.frames][:, None]
        return sighting.pixels - self.view.project(camera), rotated, camera

    def _rated(self, k: int) -> Points:
        """The points with their scatter as it is seen now."""
        points, first, seen = self.points[k], self._start[0][k], self._sightings[k].seen
        squared = (self._residual(k)[0] ** 2).sum(-1) / 2
        inlier = influence(squared, points.scatter) * seen
        share = inlier.sum(0) / np.maximum(seen.sum(0), 1)
        total = 1.3 * (inlier * squared).sum(0) + SCATTER_FRAMES * first.scatter**2  # 1.3: what the influence cuts off
        scatter = np.sqrt(total / (inlier.sum(0) + SCATTER_FRAMES))
        return replace(points, scatter=np.maximum(scatter, LEAST_SCATTER) / np.clip(1.3 * share, 0.2, 1))

    def _terms(self, k: int) -> _Terms:
        sighting = self._sightings[k]
        residual, rotated, camera = self._residual(k)
        scatter = self.points[k].scatter
        weight = influence((residual**2).sum(-1) / 2, scatter) * sighting.seen / scatter**2
        by_pose = pose_slope(rotated, camera, self.view.focal)
        by_home = by_pose[..., 3:] @ self.rotation[sighting.frames][:, None]
        modes = np.concatenate([np.ones((len(sighting.frames), 1)), self._modes[sighting.frames]], axis=1)
        by_point = (modes[:, None, None, :, None] * by_home[..., None, :]).reshape(*by_home.shape[:-1], -1)
        return _Terms(residual, weight, by_pose, by_point, sighting.pixels - residual - self.view.centre)

    def _eliminated(self, k: int):
        """A keyframe's share of the reduced system (its frames' poses, then log focal length), and how its points
        follow from the solution: half [M, B, B] times (the last column of `answer` [M, B, 6 n + 2] minus the others
        times the solution)."""
        terms, points, first = self._terms(k), self.points[k], self._start[0][k]
        count, size = terms.weight.shape
        weight = terms.weight[..., None, None]
        weighted_pose, weighted_point = weight * terms.by_pose, weight * terms.by_point
        normal, gradient = np.zeros((6 * count + 1,) * 2), np.zeros(6 * count + 1)
        rows = terms.by_pose.reshape(count, -1, 6)
        weighted_rows = weighted_pose.reshape(count, -1, 6)
        by_frame = np.swapaxes(weighted_rows, 1, 2) @ rows
        for n in range(count):
            normal[6 * n : 6 * n + 6, 6 * n : 6 * n + 6] = by_frame[n]
        tied = np.swapaxes(weighted_rows, 1, 2) @ np.stack([terms.by_focal, terms.residual], -1).reshape(count, -1, 2)
        normal[:-1, -1] = normal[-1, :-1] = tied[..., 0].reshape(-1)
        gradient[:-1] = tied[..., 1].reshape(-1)
        normal[-1, -1] = (weight[..., 0] * terms.by_focal**2).sum()
        gradient[-1] = (weight[..., 0] * terms.by_focal * terms.residual).sum()
        # the same by point: [M, n 2, B]
        unknowns = terms.by_point.shape[-1]
        columns = np.swapaxes(weighted_point, 0, 1).reshape(size, 2 * count, unknowns).swapaxes(1, 2)
        rows = np.swapaxes(terms.by_point, 0, 1).reshape(size, 2 * count, unknowns)
        rest = np.stack([terms.by_focal, terms.residual], -1).swapaxes(0, 1).reshape(size, 2 * count, 2)
        sigma = np.stack([points.home_sigma] + [points.moves_sigma] * points.moves.shape[1], axis=1)
        pull = np.repeat(sigma**-2.0, 3, axis=1)
        off = np.concatenate([(first.home - points.home)[:, None], first.moves - points.moves], axis=1)
        tied = columns @ rest
        right = tied[..., 1] + pull * off.reshape(size, -1)
        with_pose = np.swapaxes(weighted_point, 2, 3) @ terms.by_pose  # [n, M, B, 6]
        with_pose = with_pose.transpose(1, 2, 0, 3).reshape(size, unknowns, 6 * count)
        coupling = np.concatenate([with_pose, tied[..., :1]], axis=-1)
        own = columns @ rows + pull[..., None] * np.eye(unknowns)
        half = torch.linalg.inv(torch.linalg.cholesky(torch.from_numpy(own)))
        answer = (half @ torch.from_numpy(np.concatenate([coupling, right[..., None]], axis=-1))).numpy()
        flat = answer.reshape(-1, 6 * count + 2)
        both = square(flat.T)
        normal -= both[:-1, :-1]
        gradient -= both[:-1, -1]
        return normal, gradient, (half.mT.numpy(), answer)


def influence(squared, scatter):
    """Geman-McClure weight of mean squared residuals (per axis), 1 for a perfect one."""
    return geman_mcclure(squared / (OUTLIER * scatter) ** 2)


def locate(
    points: Float[np.ndarray, "N M 3"],
    pixels: Float[np.ndarray, "N M 2"],
    seen: Bool[np.ndarray, "N M"],
    scatter: Float[np.ndarray, " M"],
    rotation: Float[np.ndarray, "N 3 3"],
    translation: Float[np.ndarray, "N 3"],
    view: View,
    pose_sigma: Float[np.ndarray, " 6"],
    steps: int = 6,
) -> tuple[Float[np.ndarray, "N 3 3"], Float[np.ndarray, "N 3"]]:
    """Poses under which points of known place appear where they were seen, robustly, held to the poses given."""
    start_rotation, start_translation, hold = rotation, translation, pose_sigma**-2.0
    count = len(points)
    for _ in range(steps if count else 0):
        rotated = points @ np.swapaxes(rotation, 1, 2)
        camera = rotated + translation[:, None]
        residual = pixels - view.project(camera)
        weight = influence((residual**2).sum(-1) / 2, scatter) * seen / scatter**2
        by_pose = pose_slope(rotated, camera, view.focal).reshape(count, -1, 6)
        turned = small_turn(start_rotation @ np.swapaxes(rotation, 1, 2))
        away = np.concatenate([turned, start_translation - translation], axis=1)
        normal, gradient = normal_equations(by_pose, np.repeat(weight, 2, axis=1), residual.reshape(count, -1))
        change = solve(normal + np.diag(hold), gradient + hold * away)
        rotation = matrix_from_rotvec(change[:, :3]) @ rotation
        translation = translation + change[:, 3:]
        if np.abs(change / pose_sigma).max() < CONVERGED:
            break
    return rotation, translation
