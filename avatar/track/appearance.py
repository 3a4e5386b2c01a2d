"""Pose and expression from how this person's face looks: what landmarks say too little of (lips, lids, gaze).

The clip itself teaches how the face changes with the tracked motion: each place of the face grid (`face_grid.py`) is
linear in the coefficients and the pose, a ridge regression over all frames. Each frame is then moved to where that
explains its picture best, held to what was tracked, and the regression is learned again: an active appearance model
(Cootes, Edwards and Taylor 1998) of one person, with the coefficients as its parameters.

1. Head pose: the picture's own slopes say how it changes when the head is moved by a little; all of the expression is
   explained along with it and then dropped.
2. Expression: the coefficients of mouth and eyes, each from its own part of the face, in brightness and redness.

A frame is never judged by a regression that has seen it or its neighbours: that would learn each frame's errors along
(the mouth then comes out worse than as tracked). The clip is cut into blocks, each judged by what the others teach.
At most LEARNED_FRAMES are kept, as small pictures; the other frames are read one at a time afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float32, UInt8

from avatar.conventions import BLENDSHAPES
from avatar.geometry import matrix_from_rotvec, nearest_rotation, rotvec_from_matrix
from avatar.track.face_grid import FaceGrid, Portrait, look, portrait
from avatar.track.linear import geman_mcclure, solve
from avatar.track.mesh import LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from avatar.track.parallel import ahead, batches
from avatar.track.solve import LEAST_FACING, Poses, View, even_frames, seen_share

LEARNED_FRAMES = 300
"""Frames that the regressions are learned from."""
LEAST_FRAMES = 60
"""With fewer there is nothing to learn; the motion stays as it was."""
BLOCKS = 11
"""Parts of the clip, each judged by what the others teach."""
POSE_ROUNDS, EXPRESSION_ROUNDS = 2, 3
ACTIVE = 0.004
"""Standard deviation above which a coefficient takes part."""
EXPRESSION_SIGMA = 0.3
"""Trust in a tracked coefficient, of its own standard deviation."""
POSE_SIGMA = np.array([np.radians(0.15)] * 3 + [0.02, 0.02, 0.1])
"""Trust in a tracked pose: radians about and cm along the camera's axes."""
EXPRESSION_RIDGE, POSE_RIDGE = 50.0, 80.0
"""Of the regressions, in frames."""
BATCH = 16
"""Frames that are worked on at once."""
POINTS_PER_FACT = 10.0
"""Neighbouring grid points err together: so many count as one measurement."""
OUTLIER = 3.0
"""Standard deviations beyond which a grid point loses its influence."""
NOISE_GREY = 0.5
"""Grey levels by which a grid point errs at best."""
PARTS = (
    (("mouth", "jaw", "cheekPuff"), 4.0, lambda neutral: neutral[list(OUTER_LIPS)].mean(axis=0, keepdims=True)),
    (("eye", "cheekSquint"), 1.0, lambda neutral: neutral[[*LEFT_EYE, *RIGHT_EYE]]),
)
"""Coefficients by the beginnings of their names; how near in cm, and to which places, the face shows them."""


@dataclass(frozen=True)
class _Lesson:
    """What a regression has learned: values on the grid per driver [D, M], their changes to the right and down [D, M],
    and the variance of what it does not explain [M]."""

    values: np.ndarray
    right: np.ndarray
    down: np.ndarray
    variance: np.ndarray


def refine_by_appearance(
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    neutral: Float[np.ndarray, "478 3"],
    view: View,
    poses: Poses,
    coefficients: Float[np.ndarray, "N 52"],
    advance: Callable[[], None] = lambda: None,
) -> tuple[Poses, Float[np.ndarray, "N 52"]]:
    """Poses and coefficients 0..1 that explain the pictures better, near those that were tracked.

    Args:
        read: gives frame i (of the frames with a face that nothing covers), RGB.
        neutral: neutral head, cm.
        view: the camera.
        poses: head poses; expressions are kept.
        coefficients: of the same frames.
        advance: called once per frame.
    """
    count = len(poses.rotation)
    if count < LEAST_FRAMES:
        for _ in range(count):
            advance()
        return poses, coefficients
    face = _Face(FaceGrid.over(neutral), view, poses, coefficients, neutral)
    learned = even_frames(count, LEARNED_FRAMES)
    portraits = []
    for shown in ahead(len(learned), lambda k: face.portrait(read(int(learned[k])), int(learned[k]))):
        portraits.append(shown)
        advance()
    found = [face.learn(learned, portraits)]
    rest = np.setdiff1d(np.arange(count), learned)
    parts = [rest[part] for part in batches(len(rest), BATCH)]
    for judged in ahead(
        len(parts), lambda k: face.judge(parts[k], [face.portrait(read(int(i)), int(i)) for i in parts[k]])
    ):
        found.append(judged)
        for _ in judged.rotation:
            advance()
    order = np.argsort(np.concatenate([learned, rest]))
    rotation, translation, expression = (
        np.concatenate([getattr(part, name) for part in found])[order]
        for name in ("rotation", "translation", "expression")
    )
    refined = coefficients.astype(np.float64)
    refined[:, face.active] = face.middle + face.spread * expression
    return replace(poses, rotation=rotation, translation=translation), refined.clip(0, 1)


class _Face:
    """This person's face on the grid, and what the clip has taught of it."""

    def __init__(self, grid: FaceGrid, view: View, poses: Poses, coefficients: np.ndarray, neutral: np.ndarray) -> None:
        self._grid, self._view, self._count = grid, view, len(coefficients)
        self.active = np.flatnonzero(coefficients.std(axis=0) > ACTIVE)
        chosen = coefficients[:, self.active].astype(np.float64)
        self.middle, self.spread = chosen.mean(axis=0), chosen.std(axis=0)
        self.start = Poses(poses.rotation, poses.translation, (chosen - self.middle) / self.spread)
        self._posture = _posture(poses)
        self._parts = [
            (own, grid.near(places(neutral), reach))
            for names, reach, places in PARTS
            if (own := np.array([BLENDSHAPES[i].startswith(names) for i in self.active], bool)).any()
        ]
        self._pose_lessons: list[list[_Lesson]] = []
        self._part_lessons: list[tuple[list[_Lesson], np.ndarray]] = []

    def portrait(self, frame: np.ndarray, i: int) -> Portrait:
        """What is kept of frame i."""
        return portrait(frame, self._grid, self._view, self.start.rotation[i], self.start.translation[i])

    def learn(self, frames: np.ndarray, portraits: list[Portrait]) -> Poses:
        """Learns from some frames, in order; returns where they are then.

        Expressions are in units of the coefficients' standard deviation around their mean [n, K], here and below."""
        states = self.start.at(frames)
        for _ in range(POSE_ROUNDS):
            seen = self._look(portraits, states)[:, : self._size]
            self._pose_lessons.append(self._lessons(frames, states, seen, slopes=True))
            states = self._moved(frames, states, seen, self._pose_lessons[-1])
        states = replace(states, expression=self.start.expression[frames])
        seen, visible = self._look(portraits, states), self._facing(states)
        for own, near in self._parts:
            part, shown = seen[:, np.tile(near, 2)], np.tile(visible[:, near], 2)
            lessons, scale = [], np.ones(len(own))
            for _ in range(EXPRESSION_ROUNDS):
                lessons = self._lessons(frames, states, part)
                states = self._expressed(frames, states, part, shown, own, lessons)
                scale = np.where(own, self._scale(frames, states), 1.0)
                states = replace(states, expression=scale * states.expression)
            self._part_lessons.append((lessons, scale))
        return states

    def judge(self, frames: np.ndarray, portraits: list[Portrait]) -> Poses:
        """Where some frames are, by what was learned from others."""
        states = self.start.at(frames)
        for lessons in self._pose_lessons:
            states = self._moved(frames, states, self._look(portraits, states)[:, : self._size], lessons)
        states = replace(states, expression=self.start.expression[frames])
        seen, visible = self._look(portraits, states), self._facing(states)
        for (own, near), (lessons, scale) in zip(self._parts, self._part_lessons, strict=True):
            part, shown = seen[:, np.tile(near, 2)], np.tile(visible[:, near], 2)
            for _ in range(2):  # the second time outliers are known
                states = self._expressed(frames, states, part, shown, own, lessons)
            states = replace(states, expression=scale * states.expression)
        return states

    @property
    def _size(self) -> int:
        return len(self._grid.points)

    def _block(self, frames: np.ndarray) -> np.ndarray:
        """The part of the clip that each frame belongs to."""
        return frames * BLOCKS // self._count

    def _look(self, portraits: list[Portrait], states: Poses) -> Float32[np.ndarray, "n M2"]:
        """Brightness and redness on the grid, one after the other."""
        grid, view = self._grid, self._view
        looks = ahead(
            len(portraits), lambda k: look(portraits[k], grid, view, states.rotation[k], states.translation[k])
        )
        return np.array([seen.reshape(-1) for seen in looks])

    def _drivers(self, frames: np.ndarray, states: Poses) -> np.ndarray:
        """What the regressions hear: coefficients and posture. [n, D]"""
        return np.concatenate([states.expression, self._posture[frames]], axis=1)

    def _lessons(self, frames: np.ndarray, states: Poses, seen: np.ndarray, slopes: bool = False) -> list[_Lesson]:
        """One regression per block, learned from the others."""
        drivers = self._drivers(frames, states)
        ridge = np.diag([*[EXPRESSION_RIDGE] * len(self.active), 1e-3, *[POSE_RIDGE] * (self._posture.shape[1] - 1)])
        edges = np.searchsorted(self._block(frames), range(BLOCKS + 1))
        blocks = [slice(first, end) for first, end in pairwise(edges)]
        grams = [drivers[own].T @ drivers[own] for own in blocks]
        products = [drivers[own].T @ seen[own] for own in blocks]

        def lesson(k: int) -> _Lesson:
            values = np.linalg.solve(sum(grams) - grams[k] + ridge, sum(products) - products[k]).astype(np.float32)
            squared = (seen - drivers.astype(np.float32) @ values) ** 2
            own = blocks[k]
            others = len(frames) - (own.stop - own.start)
            variance = (squared.sum(axis=0) - squared[own].sum(axis=0)) / others + NOISE_GREY**2
            right, down = self._grid.slopes(values) if slopes else (values[:0], values[:0])
            return _Lesson(values, right, down, variance)

        return list(ahead(BLOCKS, lesson))

    def _moved(self, frames: np.ndarray, states: Poses, seen: np.ndarray, lessons: list[_Lesson]) -> Poses:
        """One step of the frames' poses, with the expression explained along."""
        shape = len(self.active)
        sigma = np.concatenate([np.full(shape, EXPRESSION_SIGMA), POSE_SIGMA])

        def change(of: np.ndarray, lesson: _Lesson) -> np.ndarray:
            now, start = states.at(of), self.start.at(frames[of])
            drivers = self._drivers(frames[of], now).astype(np.float32)
            turned = rotvec_from_matrix(start.rotation @ np.swapaxes(now.rotation, 1, 2))
            away = [start.expression - now.expression, turned, start.translation - now.translation]
            moves, visible = self._moves(now, drivers @ lesson.right, drivers @ lesson.down)
            known = np.broadcast_to(lesson.values[:shape], (len(of), shape, self._size))
            slopes, residual = np.concatenate([known, moves], axis=1), seen[of] - drivers @ lesson.values
            return _step(slopes, residual, lesson.variance, visible, sigma, np.concatenate(away, axis=1))

        steps = self._by_lesson(frames, lessons, change)
        return Poses(
            matrix_from_rotvec(steps[:, shape : shape + 3]) @ states.rotation,
            states.translation + steps[:, shape + 3 :],
            states.expression + steps[:, :shape],
        )

    def _expressed(self, frames: np.ndarray, states: Poses, seen, visible, own: np.ndarray, lessons) -> Poses:
        """One step of some (`own`) of the frames' coefficients, from the part of the face that shows them."""
        sigma = np.full(int(own.sum()), EXPRESSION_SIGMA)

        def change(of: np.ndarray, lesson: _Lesson) -> np.ndarray:
            now = states.at(of)
            residual = seen[of] - self._drivers(frames[of], now).astype(np.float32) @ lesson.values
            away = (self.start.expression[frames[of]] - now.expression)[:, own]
            slopes = lesson.values[: len(own)][own]
            return _step(slopes[None], residual, lesson.variance, visible[of], sigma, away)

        expression = states.expression.copy()
        expression[:, own] += self._by_lesson(frames, lessons, change)
        return replace(states, expression=expression)

    def _by_lesson(self, frames: np.ndarray, lessons: list[_Lesson], work) -> np.ndarray:
        """work(positions, lesson) of a few frames of one block at a time, put together in the order of the frames."""
        block = self._block(frames)
        parts = [
            (of[part], lessons[k])
            for k in np.unique(block)
            for of in [np.flatnonzero(block == k)]
            for part in batches(len(of), BATCH)
        ]
        return np.concatenate(list(ahead(len(parts), lambda k: work(*parts[k]))))

    def _scale(self, frames: np.ndarray, states: Poses) -> np.ndarray:
        """Factors [K] that bring coefficients back to the tracker's unit.

        Round by round a regression that is a little too flat makes the coefficients it explains the pictures with a
        little too large. They are scaled so that the tracked ones are, on average over the clip, what they say.
        """
        tracked = self.start.expression[frames]
        return (states.expression * tracked).sum(axis=0) / ((states.expression**2).sum(axis=0) + 1e-9)

    def _seen_from(self, states: Poses):
        """The grid's points and normals in the camera's axes, points turned only and in their place. [n, M, 3] each"""
        turn = np.swapaxes(states.rotation, 1, 2).astype(np.float32)
        rotated = self._grid.points.astype(np.float32) @ turn
        return rotated, self._grid.normals.astype(np.float32) @ turn, rotated + states.translation[:, None].astype("f4")

    def _facing(self, states: Poses) -> Float32[np.ndarray, "n M"]:
        """How far the grid's points face the camera, 0..1."""
        _, normals, camera = self._seen_from(states)
        return seen_share(-(normals * camera).sum(axis=-1) / np.linalg.norm(camera, axis=-1))

    def _moves(self, states: Poses, right: np.ndarray, down: np.ndarray):
        """How the pictures on the grid change with small turns about and shifts along the camera's axes [n, 6, M], and
        how far its points face the camera [n, M].

        A point that is moved is seen where the line of sight to its new place meets the surface.
        """
        rotated, normals, camera = self._seen_from(states)
        rotation = states.rotation[:, None].astype(np.float32)
        slope = right[..., None] * rotation[..., 0] + down[..., None] * rotation[..., 1]
        towards, far = (normals * camera).sum(axis=-1), np.linalg.norm(camera, axis=-1)
        along = (slope * camera).sum(axis=-1) / np.minimum(towards, -LEAST_FACING * far)
        shifts = along[..., None] * normals - slope
        return np.swapaxes(np.concatenate([np.cross(rotated, shifts), shifts], axis=-1), 1, 2), seen_share(
            -towards / far
        )


def _posture(poses: Poses) -> Float[np.ndarray, "N 7"]:
    """1, and turn and place of the head around their mean, of unit spread."""
    base = nearest_rotation(poses.rotation.mean(axis=0))
    motion = np.concatenate([rotvec_from_matrix(base.T @ poses.rotation), poses.translation], axis=1)
    motion = (motion - motion.mean(axis=0)) / (motion.std(axis=0) + 1e-6)
    return np.concatenate([np.ones((len(motion), 1)), motion], axis=1)


def _step(slopes, residual, variance, visible, sigma, away) -> Float[np.ndarray, "n P"]:
    """The change of P numbers of each frame that explains its residual best, robustly and held to where they started.

    Args:
        slopes: [n or 1, P, M] change of the picture with each number.
        residual, visible: [n, M] what is to be explained, and the share of it that is seen.
        variance: [M] noise.
        sigma, away: [P] trust in the start, and [n, P] the way back to it.
    """
    influence = visible * geman_mcclure(residual**2 / (OUTLIER**2 * variance)) / (variance * POINTS_PER_FACT)
    weighted = slopes * influence[:, None]
    normal = (weighted @ np.swapaxes(slopes, 1, 2)).astype(np.float64) + np.diag(sigma**-2.0)
    gradient = (weighted @ residual[..., None])[..., 0] + away / sigma**2
    return solve(normal, gradient)
