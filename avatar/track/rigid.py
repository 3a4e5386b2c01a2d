"""Head poses from the whole head's rigid points: keyframes, their joint solve, then every frame on its own.

`keyframes` says where points are seen, `bundle` what that means. Frames are read one at a time; of the bundle's frames
only the sightings are kept. Smooth skin and hair without grain give points that wander: the head then shakes more than
before, and the poses stay as they came.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from avatar.geometry import rotvec_from_matrix
from avatar.track.bundle import STEPS, Bundle, Points, Sightings, locate
from avatar.track.keyframes import LEAST_POINTS, Keyframe, follow, keyframe, picture, projected, working_scale
from avatar.track.mesh import landmark_noise
from avatar.track.parallel import ahead
from avatar.track.solve import Head, Poses, View, head_points, varied_frames

KEYFRAMES = 12
BUNDLE_FRAMES = 96
"""Frames of the joint solve: half evenly spread, half of poses as different as possible."""
NEIGHBOURS = 3
"""Keyframes that each of them is compared with: what ties the keyframes to each other."""
MODES = 4
"""Modes of expression that points may move with."""
BUNDLE_POSE_SIGMA = np.array([0.1, 0.1, 0.06, 1.2, 1.2, 20.0])
"""Trust in a landmark pose while all are solved together (they err alike): radians about and cm along the axes."""
POSE_SIGMA = np.array([0.035, 0.035, 0.02, 0.4, 0.4, 1.5])
"""The same for a frame on its own."""
MESH_SIGMA_CM, FREE_SIGMA_CM = 0.4, 3.0
"""Trust in the mesh's place for a point, and in the rough relief's."""
SKIN_MOVES_CM, HAIR_MOVES_CM = 0.3, 0.02
"""How far one unit of an expression mode may move skin otherwise than the prior says, and anything off the mesh."""
SKIN_SCATTER_PX, HAIR_SCATTER_PX = 0.8, 0.25
"""First guess of how far points stray: the steadiest skin, and points off the mesh (working pixels)."""


def align_head(
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]],
    person: Callable[[int], UInt8[np.ndarray, "S S"]],
    head: Head,
    view: View,
    poses: Poses,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Poses, View]:
    """Poses and camera that the rigid points of the whole head agree on; those given where that shakes the head more.

    Args:
        read: gives frame i (of the frames with a face), RGB.
        person: gives its raw person mask, 0..255.
        head: neutral head and expression basis of the landmark solution.
        view: its camera.
        poses: its poses; expressions are kept.
        advance: called once per frame.
    """
    count = len(poses.rotation)
    modes, basis = _modes(head, poses.expression)
    keys = _keyframes(read, person, head, view, poses)
    if not keys:
        for _ in range(count):
            advance()
        return poses, view
    frames = _bundle_frames(poses, min(count, BUNDLE_FRAMES))
    sightings = _sightings(read, keys, frames, head, view, poses)
    keys = [key for key, seen in zip(keys, sightings, strict=True) if len(seen.frames)]
    bundle = Bundle(
        [_prior_points(key, basis) for key in keys],
        [seen for seen in sightings if len(seen.frames)],
        modes[frames],
        poses.rotation[frames],
        poses.translation[frames],
        view,
        BUNDLE_POSE_SIGMA,
    )
    for _ in range(STEPS):
        bundle.improve()
    longer = bundle.view.focal / view.focal

    def aligned(i: int):
        k = _nearest(keys, poses.rotation[i])[0]
        rotation, translation = poses.rotation[i], poses.translation[i]
        shown = _picture(read, head, view, poses, i, keys[k].picture.scale)
        pixels, found = follow(keys[k], shown, rotation, translation, view)
        translation = translation * [1, 1, longer]
        if found.sum() < LEAST_POINTS:  # too few to say anything
            return rotation, translation
        places = bundle.points[k].at(modes[i : i + 1])[0]
        scatter = bundle.points[k].scatter
        return locate(places[found], pixels[found], scatter[found], rotation, translation, bundle.view, POSE_SIGMA)

    rotation, translation = np.empty((count, 3, 3)), np.empty((count, 3))
    for i, found in enumerate(ahead(count, aligned)):
        rotation[i], translation[i] = found
        advance()
    steadier = _shake(rotation) < _shake(poses.rotation)
    return (Poses(rotation, translation, poses.expression), bundle.view) if steadier else (poses, view)


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
    keys = [
        keyframe(read(int(i)), person(int(i)), points, rotation, translation, view, scale)
        for i, (points, rotation, translation) in zip(chosen, posed, strict=True)
    ]
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
    spread = np.linspace(0, len(poses.rotation) - 1, count // 2 + 1).round().astype(int)
    turned = varied_frames(poses.rotation.reshape(len(poses.rotation), 9), count - count // 2)
    return np.unique(np.concatenate([spread, turned]))


def _sightings(read, keys: list[Keyframe], frames, head: Head, view: View, poses: Poses) -> list[Sightings]:
    """Each bundle frame compared with the keyframes nearest in pose."""
    near = [_nearest(keys, poses.rotation[i])[:NEIGHBOURS] for i in frames]

    def compared(n: int):
        i = int(frames[n])
        shown = _picture(read, head, view, poses, i, keys[0].picture.scale)
        return {int(k): follow(keys[k], shown, poses.rotation[i], poses.translation[i], view) for k in near[n]}

    seen = list(ahead(len(frames), compared))
    out = []
    for k, key in enumerate(keys):
        with_key = [n for n, found in enumerate(seen) if k in found]
        size = len(key.pixels)
        pixels = np.array([seen[n][k][0] for n in with_key]).reshape(len(with_key), size, 2)
        found = np.array([seen[n][k][1] for n in with_key], dtype=bool).reshape(len(with_key), size)
        out.append(Sightings(np.array(with_key, dtype=np.int64), pixels.astype(np.float64), found))
    return out


def _picture(read, head: Head, view: View, poses: Poses, i: int, scale: float):
    points = head_points(head, poses.expression[i : i + 1])[0]
    return picture(read(i), projected(points, poses.rotation[i], poses.translation[i], view), scale)


def _nearest(keys: list[Keyframe], rotation):
    """Numbers of the keyframes, nearest in pose first."""
    return np.argsort([-np.trace(rotation.T @ key.rotation) for key in keys])
