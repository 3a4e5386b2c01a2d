"""Head poses from the whole head's rigid points: keyframes, their joint solve, then every frame on its own.

`keyframes` says where points are seen, `bundle` what that means. Frames are read one at a time; only the sightings are
kept. Smooth skin and hair without grain give points that wander: the head is then hardly steadier than before. Such
points still say how the head is turned, because ears and hair lie far behind the skin, while the texture leans to the
mouth; but they and the texture err about as much in where it is, differently, and share the say in that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from avatar.geometry import rotvec_from_matrix
from avatar.track.bundle import STEPS, Bundle, Points, Sightings, locate
from avatar.track.keyframes import LEAST_POINTS, Keyframe, follow, keyframe, picture, projected, working_scale
from avatar.track.mesh import landmark_noise
from avatar.track.parallel import ahead
from avatar.track.photometric import POSE_SIGMA
from avatar.track.solve import Head, Poses, View, even_frames, head_points, varied_frames

Seen: TypeAlias = dict[int, tuple[np.ndarray, np.ndarray]]
"""Where a frame shows the points of some keyframes, by their number, nearest in pose first: as `follow` gives it."""
KEYFRAMES = 12
BUNDLE_FRAMES = 96
"""Frames of the joint solve: half evenly spread, half of poses as different as possible."""
NEIGHBOURS = 3
"""Keyframes that each of them is compared with: what ties the keyframes to each other."""
AT_ONCE = 64
"""Frames whose poses are solved at once."""
MODES = 4
"""Modes of expression that points may move with."""
BUNDLE_POSE_SIGMA = np.array([0.1, 0.1, 0.06, 1.2, 1.2, 20.0])
"""Trust in a landmark pose while all are solved together (they err alike): radians about and cm along the axes."""
MESH_SIGMA_CM, FREE_SIGMA_CM = 0.4, 3.0
"""Trust in the mesh's place for a point, and in the rough relief's."""
SKIN_MOVES_CM, HAIR_MOVES_CM = 0.3, 0.02
"""How far one unit of an expression mode may move skin otherwise than the prior says, and anything off the mesh."""
SKIN_SCATTER_PX, HAIR_SCATTER_PX = 0.8, 0.25
"""First guess of how far points stray: the steadiest skin, and points off the mesh (working pixels)."""
STEADY = 0.85
"""How much the head shakes at most, of what it shook before, for its points to say where it is. Clips of firm points
come to 0.4 to 0.78, lively faces of smooth skin, whose focal length runs away, to 0.93 to 1.15."""
WANDERING = 1.5
"""The same for its points to be believed at all."""
PIVOT_CM = np.array([0.0, -1.0, 4.0])
"""Where the head is: between the skin, which the texture holds in place, and the ears."""
PLACE_SHARE = 0.4
"""What such points say of where that is; the rest is the texture's."""


def align_head(
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    person: Callable[[int], UInt8[np.ndarray, "S S"]],
    head: Head,
    view: View,
    poses: Poses,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Poses, View]:
    """Poses and camera that the rigid points of the whole head agree on; where these hardly hold it steadier, between
    there and where the poses given put it; the poses and the camera given where the points are of no use.

    Args:
        read: gives frame i (of the frames with a face), RGB.
        person: gives its raw person mask, 0..255.
        head: neutral head and expression basis of the landmark solution.
        view: its camera.
        poses: its poses; expressions are kept.
        advance: called once per frame.
    """
    count = len(poses.rotation)
    keys = _keyframes(read, person, head, view, poses)
    if not keys:
        for _ in range(count):
            advance()
        return poses, view

    def compared(i: int, neighbours: int) -> Seen:
        rotation, translation = poses.rotation[i], poses.translation[i]
        points = head_points(head, poses.expression[i : i + 1])[0]
        shown = picture(read(i), projected(points, rotation, translation, view), keys[0].picture.scale)
        near = _nearest(keys, rotation)[:neighbours]
        return {int(k): follow(keys[k], shown, rotation, translation, view) for k in near}

    frames = _bundle_frames(poses, min(count, BUNDLE_FRAMES))
    seen = dict(enumerate(ahead(len(frames), lambda n: compared(int(frames[n]), NEIGHBOURS))))
    known = {int(i): seen[n] for n, i in enumerate(frames)}

    def nearest(i: int) -> Seen:
        return known.get(i) or compared(i, 1)

    modes, basis = _modes(head, poses.expression)
    bundle = Bundle(
        [_prior_points(key, basis) for key in keys],
        [_sightings(seen, k, key) for k, key in enumerate(keys)],
        modes[frames],
        poses.rotation[frames],
        poses.translation[frames],
        view,
        BUNDLE_POSE_SIGMA,
    )
    for _ in range(STEPS):
        bundle.improve()
    longer = np.array([1, 1, bundle.view.focal / view.focal])
    start = replace(poses, translation=poses.translation * longer)
    found = _located(ahead(count, nearest), keys, bundle, modes, start, advance)
    shaking = _shake(found.rotation) / max(_shake(poses.rotation), 1e-9)
    if shaking > WANDERING:
        return poses, view
    if shaking > STEADY:
        found = _drawn(found, _places(poses) * longer)
    return found, bundle.view


def _drawn(poses: Poses, place: Float[np.ndarray, "N 3"]) -> Poses:
    """Poses turned as they are, with the head's PIVOT_CM on the way to a place of each frame."""
    return replace(poses, translation=poses.translation + (1 - PLACE_SHARE) * (place - _places(poses)))


def _places(poses: Poses) -> Float[np.ndarray, "N 3"]:
    """Where PIVOT_CM is in each frame, camera space, cm."""
    return poses.rotation @ PIVOT_CM + poses.translation


def _located(following: Iterator[Seen], keys: list[Keyframe], bundle: Bundle, modes, start: Poses, advance) -> Poses:
    """The pose of every frame from where it shows the points of the keyframe nearest to it."""
    rotation, translation = start.rotation.copy(), start.translation.copy()
    for first in range(0, len(rotation), AT_ONCE):
        part = {}
        for n, near in enumerate(islice(following, AT_ONCE)):
            part[first + n] = {k: near[k] for k in list(near)[:1]}
            advance()
        for k, key in enumerate(keys):
            sight = _sightings(part, k, key)
            own, points = sight.frames, bundle.points[k]
            enough = sight.seen.sum(axis=1, keepdims=True) >= LEAST_POINTS  # fewer say nothing
            rotation[own], translation[own] = locate(
                points.at(modes[own]), sight.pixels, sight.seen & enough, points.scatter, rotation[own],
                translation[own], bundle.view, POSE_SIGMA,
            )  # fmt: skip
    return replace(start, rotation=rotation, translation=translation)


def _shake(rotation: Float[np.ndarray, "N 3 3"]) -> float:
    """How much the turning changes from frame to frame, radians: at video rates most of that is error."""
    turning = rotvec_from_matrix(np.swapaxes(rotation[:-1], 1, 2) @ rotation[1:])
    return float(np.sqrt((np.diff(turning, axis=0) ** 2).sum(axis=1).mean()))


def _modes(head: Head, expression: Float[np.ndarray, "N K"]):
    """The clip's main modes of expression, of unit spread: [N, K'] and how they move the mesh [K', 478, 3]."""
    middle = expression - expression.mean(axis=0)
    left, size, right = np.linalg.svd(middle, full_matrices=False)
    keep = min(MODES, len(size))
    spread = np.sqrt(len(expression))
    basis = np.einsum("kj,jlx->klx", size[:keep, None] / spread * right[:keep], head.basis)
    return left[:, :keep] * spread, basis


def _keyframes(read, person, head: Head, view: View, poses: Poses) -> list[Keyframe]:
    directions = poses.rotation.reshape(len(poses.rotation), 9)
    chosen = np.unique(varied_frames(directions, min(KEYFRAMES, len(directions))))
    shapes = head_points(head, poses.expression[chosen])
    posed = list(zip(shapes, poses.rotation[chosen], poses.translation[chosen], strict=True))
    scale = working_scale(np.array([projected(points, r, t, view) for points, r, t in posed]))
    keys = ahead(len(chosen), lambda n: keyframe(read(int(chosen[n])), person(int(chosen[n])), *posed[n], view, scale))
    return [key for key in keys if key is not None]


def _prior_points(key: Keyframe, basis) -> Points:
    skin = key.on_mesh
    return Points(
        key.home,
        np.where(skin, MESH_SIGMA_CM, FREE_SIGMA_CM),
        np.where(skin[:, None, None], basis[:, key.landmark].transpose(1, 0, 2), 0.0),
        np.where(skin, SKIN_MOVES_CM, HAIR_MOVES_CM),
        np.where(skin, SKIN_SCATTER_PX * landmark_noise()[key.landmark], HAIR_SCATTER_PX) / key.picture.scale,
    )


def _bundle_frames(poses: Poses, count: int):
    spread = even_frames(len(poses.rotation), count // 2 + 1)
    turned = varied_frames(poses.rotation.reshape(len(poses.rotation), 9), count - count // 2)
    return np.unique(np.concatenate([spread, turned]))


def _sightings(seen: dict[int, Seen], k: int, key: Keyframe) -> Sightings:
    """Where a keyframe's points were seen in those of the frames that were compared with it."""
    frames = [n for n, found in seen.items() if k in found]
    size = len(key.pixels)
    pixels = np.array([seen[n][k][0] for n in frames], dtype=np.float64).reshape(len(frames), size, 2)
    found = np.array([seen[n][k][1] for n in frames], dtype=bool).reshape(len(frames), size)
    return Sightings(np.array(frames, dtype=np.int64), pixels, found)


def _nearest(keys: list[Keyframe], rotation):
    """Numbers of the keyframes, nearest in pose first."""
    return np.argsort([-np.trace(rotation.T @ key.rotation) for key in keys])
