"""The browser's camera: from where the avatar is looked at, within a sensible range around the clip's own view.

The page's world has x to the right, y up and z towards the viewer, in cm, with its origin on the clip camera's axis at
the depth of the resting head. So the view of the clip is straight on from z = depth, whatever way the head is held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from avatar.geometry import inverse, rigid
from avatar.types import Camera

BEYOND_YAW, BEYOND_PITCH = math.radians(12), math.radians(8)
"""How far one may go beyond the turns that the head made in the clip: what the clip never showed is guesswork."""
LARGEST_TURN = math.radians(60)
NEAREST, FARTHEST = 0.35, 1.15
"""Distance over that of the clip's camera. Farther away the cut edges of the body come into the picture."""
LARGEST_PAN = 0.2
"""How far the point that is looked at may leave the origin, over the distance of the clip's camera."""

FACING = np.diag([1.0, -1.0, -1.0])
"""Rotation between the world and the clip's camera (OpenCV axes), either way."""


@dataclass(frozen=True)
class View:
    """Eye and the point it looks at, world, cm; up is +y."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]

    @staticmethod
    def of(eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]) -> View:
        """From arrays."""
        (a, b, c), (d, e, f) = (map(float, v) for v in (eye, target))
        return View((a, b, c), (d, e, f))


def front(depth: float) -> View:
    """The clip's own view.

    Args:
        depth: distance of the resting head from the clip's camera, cm.
    """
    return View((0.0, 0.0, depth), (0.0, 0.0, 0.0))


def range_of(turns: Float[np.ndarray, "T 3"]) -> tuple[float, float]:
    """How far to the side and how far up or down one may look from, radians.

    Args:
        turns: rotation vectors of the head's recorded motion in camera axes, radians.
    """
    pitch, yaw = np.quantile(np.abs(turns[:, :2]), 0.98, axis=0)
    return min(float(yaw) + BEYOND_YAW, LARGEST_TURN), min(float(pitch) + BEYOND_PITCH, LARGEST_TURN)


def clamped(view: View, depth: float, largest: tuple[float, float]) -> View:
    """The nearest sensible view.

    Args:
        largest: yaw and pitch, see `range_of`.
    """
    reach = LARGEST_PAN * depth
    target = np.clip(view.target, -reach, reach)
    offset = np.asarray(view.eye) - np.asarray(view.target)
    distance = float(np.linalg.norm(offset))
    if not np.isfinite(offset).all() or distance < 1e-6:
        return front(depth)
    yaw = float(np.clip(math.atan2(offset[0], offset[2]), -largest[0], largest[0]))
    pitch = float(np.clip(math.asin(np.clip(offset[1] / distance, -1, 1)), -largest[1], largest[1]))
    distance = float(np.clip(distance, NEAREST * depth, FARTHEST * depth))
    direction = (math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch))
    eye = target + distance * np.array(direction)
    return View.of(eye, target)


def view_from_camera(view: View, depth: float) -> Float[np.ndarray, "4 4"]:
    """From the clip camera's space to that of a camera in the view's place (both OpenCV axes)."""
    eye, target = np.asarray(view.eye), np.asarray(view.target)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    world_from_view = rigid(np.stack([right, np.cross(forward, right), forward], axis=1), eye)
    return inverse(world_from_view) @ rigid(FACING, np.array([0.0, 0.0, depth]))


def world_from_camera(depth: float) -> Float[np.ndarray, "4 4"]:
    """The clip camera's pose in the page's world."""
    return rigid(FACING, np.array([0.0, 0.0, depth]))


def field_of_view(camera: Camera, aspect: float) -> float:
    """Vertical field of view of a page, radians, in which the avatar's frame just fits.

    Args:
        aspect: width over height of the page.
    """
    half = 0.5 * camera.height / camera.focal_px
    return 2 * math.atan(half / min(1.0, aspect * camera.height / camera.width))


def frame_share(camera: Camera, aspect: float, fov: float) -> float:
    """Height of the avatar's frame over the height of the page."""
    return 0.5 * camera.height / camera.focal_px / math.tan(fov / 2)
