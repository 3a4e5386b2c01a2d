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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8

from avatar.conventions import BLENDSHAPES
from avatar.geometry import matrix_from_rotvec, nearest_rotation, rotvec_from_matrix
from avatar.track.face_grid import FaceGrid, Portrait, look, portrait
from avatar.track.mesh import LEFT_EYE, OUTER_LIPS, RIGHT_EYE
from avatar.track.parallel import ahead
from avatar.track.solve import Poses, View

LEARNED_FRAMES = 400
"""Frames that the regressions are learned from."""
LEAST_FRAMES = 60
"""With fewer there is nothing to learn; the motion stays as it was."""
BLOCKS = 11
"""Parts of the clip, each judged by what the others teach."""
POSE_ROUNDS, EXPRESSION_ROUNDS = 3, 6
ACTIVE = 0.004
"""Standard deviation above which a coefficient takes part."""
EXPRESSION_SIGMA = 0.3
"""Trust in a tracked coefficient, of its own standard deviation."""
POSE_SIGMA = np.array([np.radians(0.15)] * 3 + [0.02, 0.02, 0.1])
"""Trust in a tracked pose: radians about and cm along the camera's axes."""
EXPRESSION_RIDGE, POSE_RIDGE = 50.0, 80.0
"""Of the regressions, in frames."""
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


@dataclass(frozen=True)
class _State:
    """Where a frame is: its pose, and its coefficients in units of their standard deviation around their mean [K]."""

    rotation: np.ndarray
    translation: np.ndarray
    expression: np.ndarray


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
    learned = np.unique(np.linspace(0, count - 1, min(count, LEARNED_FRAMES)).round().astype(int))
    portraits = []
    for shown in ahead(len(learned), lambda k: face.portrait(read(int(learned[k])), int(learned[k]))):
        portraits.append(shown)
        advance()
    states = face.learn(learned, portraits)
    found: list[_State] = [face.start(i) for i in range(count)]
    for i, state in zip(learned, states, strict=True):
        found[i] = state
    rest = np.setdiff1d(np.arange(count), learned)
    judged = ahead(len(rest), lambda k: face.judge(int(rest[k]), face.portrait(read(int(rest[k])), int(rest[k]))))
    for i, state in zip(rest, judged, strict=True):
        found[i] = state
        advance()
    refined = coefficients.astype(np.float64)
    refined[:, face.active] = face.middle + face.spread * np.array([state.expression for state in found])
    rotation, translation = (np.array([getattr(s, n) for s in found]) for n in ("rotation", "translation"))
    return replace(poses, rotation=rotation, translation=translation), refined.clip(0, 1)


class _Face:
    """This person's face on the grid, and what the clip has taught of it."""

    def __init__(self, grid: FaceGrid, view: View, poses: Poses, coefficients: np.ndarray, neutral: np.ndarray) -> None:
        self._grid, self._view, self._count = grid, view, len(coefficients)
        self.active = np.flatnonzero(coefficients.std(axis=0) > ACTIVE)
        chosen = coefficients[:, self.active].astype(np.float64)
        self.middle, self.spread = chosen.mean(axis=0), chosen.std(axis=0)
        self._expression = (chosen - self.middle) / self.spread
        self._poses = poses
        self._posture = _posture(poses)
        self._parts = [
            (own, grid.near(places(neutral), reach))
            for names, reach, places in PARTS
            if (own := np.array([BLENDSHAPES[i].startswith(names) for i in self.active], bool)).any()
        ]
        self._pose_lessons: list[Sequence[_Lesson]] = []
        self._part_lessons: list[tuple[Sequence[_Lesson], np.ndarray]] = []

    def start(self, i: int) -> _State:
        """Frame i as tracked."""
        return _State(self._poses.rotation[i], self._poses.translation[i], self._expression[i])

    def portrait(self, frame: np.ndarray, i: int) -> Portrait:
        """What is kept of frame i."""
        return portrait(frame, self._grid, self._view, self._poses.rotation[i], self._poses.translation[i])

    def learn(self, frames: np.ndarray, portraits: list[Portrait]) -> list[_State]:
        """Learns from some frames; returns where they are then."""
        states = [self.start(int(i)) for i in frames]
        for _ in range(POSE_ROUNDS):
            seen = [self._look(*pair)[: self._size] for pair in zip(portraits, states, strict=True)]
            lessons = self._lessons(frames, states, np.array(seen), slopes=True)
            self._pose_lessons.append(lessons)
            states = [
                self._move(int(i), state, picture, lessons[self._block(int(i))])
                for i, state, picture in zip(frames, states, seen, strict=True)
            ]
        states = [replace(state, expression=self._expression[i]) for i, state in zip(frames, states, strict=True)]
        seen = np.array([self._look(*pair) for pair in zip(portraits, states, strict=True)])
        facing = np.array([self._facing(state) for state in states])
        for own, near in self._parts:
            pictures, visible = seen[:, np.tile(near, 2)], np.tile(facing[:, near], 2)
            lessons, scale = [], np.ones(len(own))
            for _ in range(EXPRESSION_ROUNDS):
                lessons = self._lessons(frames, states, pictures)
                states = [
                    self._express(int(i), state, picture, part, own, lessons[self._block(int(i))])
                    for i, state, picture, part in zip(frames, states, pictures, visible, strict=True)
                ]
                states, scale = self._calibrated(frames, states, own)
            self._part_lessons.append((lessons, scale))
        return states

    def _calibrated(self, frames: np.ndarray, states: list[_State], own: np.ndarray):
        """Some coefficients in the tracker's unit again, and the factors [K] that make them so.

        Round by round a regression that is a little too flat makes the coefficients it explains the pictures with a
        little too large. They are scaled so that the tracked ones are, on average over the clip, what they say.
        """
        found = np.array([state.expression for state in states])
        tracked = self._expression[frames]
        scale = (found * tracked).sum(axis=0) / ((found**2).sum(axis=0) + 1e-9)
        scale = np.where(own, scale, 1.0)
        return [replace(state, expression=scale * state.expression) for state in states], scale

    def judge(self, i: int, face: Portrait) -> _State:
        """Where frame i is, by what was learned from others."""
        state, block = self.start(i), self._block(i)
        for lessons in self._pose_lessons:
            state = self._move(i, state, self._look(face, state)[: self._size], lessons[block])
        state = replace(state, expression=self._expression[i])
        seen, facing = self._look(face, state), self._facing(state)
        for (own, near), (lessons, scale) in zip(self._parts, self._part_lessons, strict=True):
            picture, visible = seen[np.tile(near, 2)], np.tile(facing[near], 2)
            for _ in range(2):  # the second time outliers are known
                state = self._express(i, state, picture, visible, own, lessons[block])
            state = replace(state, expression=scale * state.expression)
        return state

    @property
    def _size(self) -> int:
        return len(self._grid.points)

    def _block(self, i: int) -> int:
        return i * BLOCKS // self._count

    def _look(self, face: Portrait, state: _State) -> np.ndarray:
        """Brightness and redness on the grid, one after the other. [2 M]"""
        return look(face, self._grid, self._view, state.rotation, state.translation).reshape(-1)

    def _drivers(self, i: int, state: _State) -> np.ndarray:
        return np.concatenate([state.expression, self._posture[i]]).astype(np.float32)

    def _lessons(self, frames: np.ndarray, states: list[_State], seen: np.ndarray, slopes: bool = False):
        """One regression per block, learned from the others."""
        drivers = np.array([self._drivers(int(i), s) for i, s in zip(frames, states, strict=True)], np.float64)
        shape, posture = len(self.active), self._posture.shape[1]
        ridge = np.diag([*[EXPRESSION_RIDGE] * shape, 1e-3, *[POSE_RIDGE] * (posture - 1)])
        edges = np.searchsorted([self._block(int(i)) for i in frames], range(BLOCKS + 1))
        blocks = [slice(first, end) for first, end in pairwise(edges)]
        grams = [drivers[own].T @ drivers[own] for own in blocks]
        products = [drivers[own].T @ seen[own] for own in blocks]
        lessons = []
        for own, gram, product in zip(blocks, grams, products, strict=True):
            values = np.linalg.solve(sum(grams) - gram + ridge, sum(products) - product).astype(np.float32)
            squared = (seen - drivers.astype(np.float32) @ values) ** 2
            others = len(frames) - (own.stop - own.start)
            variance = (squared.sum(axis=0) - squared[own].sum(axis=0)) / others + NOISE_GREY**2
            right, down = self._grid.slopes(values) if slopes else (values[:0], values[:0])
            lessons.append(_Lesson(values, right, down, variance))
        return lessons

    def _move(self, i: int, state: _State, seen: np.ndarray, lesson: _Lesson) -> _State:
        """One step of a frame's pose, with the expression explained along."""
        drivers, start, shape = self._drivers(i, state), self.start(i), len(self.active)
        moved = self._moved(state, drivers @ lesson.right, drivers @ lesson.down)
        turned = rotvec_from_matrix((start.rotation @ state.rotation.T)[None])[0]
        away = np.concatenate([start.expression - state.expression, turned, start.translation - state.translation])
        change = _step(
            np.concatenate([lesson.values[:shape], moved]), seen - drivers @ lesson.values, lesson.variance,
            self._facing(state), np.concatenate([np.full(shape, EXPRESSION_SIGMA), POSE_SIGMA]), away,
        )  # fmt: skip
        turn, shift = change[shape : shape + 3], change[shape + 3 :]
        return _State(
            matrix_from_rotvec(turn[None])[0] @ state.rotation,
            state.translation + shift,
            state.expression + change[:shape],
        )

    def _express(self, i: int, state: _State, seen, visible, own: np.ndarray, lesson: _Lesson) -> _State:
        """One step of some (`own`) of a frame's coefficients, from the part of the face that shows them."""
        residual = seen - self._drivers(i, state) @ lesson.values
        sigma = np.full(int(own.sum()), EXPRESSION_SIGMA)
        away = (self._expression[i] - state.expression)[own]
        slopes = lesson.values[: len(own)][own]
        expression = state.expression.copy()
        expression[own] += _step(slopes, residual, lesson.variance, visible, sigma, away)
        return replace(state, expression=expression)

    def _facing(self, state: _State) -> np.ndarray:
        """How far the grid's points face the camera, 0..1. [M]"""
        camera = self._grid.points @ state.rotation.T + state.translation
        cosine = -np.einsum("mj,mj->m", self._grid.normals @ state.rotation.T, camera)
        return np.clip((cosine / np.linalg.norm(camera, axis=1) - 0.2) / 0.4, 0, 1).astype(np.float32)

    def _moved(self, state: _State, right: np.ndarray, down: np.ndarray) -> np.ndarray:
        """How the picture on the grid changes with small turns about and shifts along the camera's axes. [6, M]

        A point that is moved is seen where the line of sight to its new place meets the surface.
        """
        rotated = self._grid.points @ state.rotation.T
        camera = rotated + state.translation
        normals = self._grid.normals @ state.rotation.T
        axes = np.eye(3)
        shifts = np.concatenate(
            [np.cross(axes[:, None], rotated[None]), np.broadcast_to(axes[:, None], (3, *rotated.shape))]
        )
        depth = np.minimum(np.einsum("mj,mj->m", normals, camera), -0.2 * np.linalg.norm(camera, axis=1))
        along = np.einsum("kmj,mj->km", shifts, normals) / depth
        on_surface = (shifts - along[..., None] * camera) @ state.rotation
        return -(right * on_surface[..., 0] + down * on_surface[..., 1]).astype(np.float32)


def _posture(poses: Poses) -> Float[np.ndarray, "N 7"]:
    """1, and turn and place of the head around their mean, of unit spread."""
    base = nearest_rotation(poses.rotation.mean(axis=0))
    motion = np.concatenate([rotvec_from_matrix(base.T @ poses.rotation), poses.translation], axis=1)
    motion = (motion - motion.mean(axis=0)) / (motion.std(axis=0) + 1e-6)
    return np.concatenate([np.ones((len(motion), 1)), motion], axis=1)


def _step(slopes, residual, variance, visible, sigma, away) -> np.ndarray:
    """The change of P numbers that explains a residual [M] best, robustly and held to where they started.

    Args:
        slopes: [P, M] change of the picture with each number.
        variance, visible: [M] noise, and share that is seen.
        sigma, away: [P] trust in the start, and the way back to it.
    """
    influence = visible / (1 + residual**2 / (OUTLIER**2 * variance)) ** 2
    weighted = slopes * (influence / (variance * POINTS_PER_FACT))
    return np.linalg.solve(weighted @ slopes.T + np.diag(sigma**-2.0), weighted @ residual + away / sigma**2)
