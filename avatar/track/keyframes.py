"""Points of the rigid head, followed from keyframes into every frame.

Ears, temples, hairline and hair do not move with expression and lie up to ten centimetres behind the nose: where they
go in the picture tells nodding from the motion of the skin. In a few keyframes of different pose, textured points of
the whole head (without eyes, brows and lips) become templates; a frame is carried into the view of the keyframe nearest
in pose, by the pose it is believed to have and a rough relief of the head, and what displacement is left there is
measured patch by patch (Lucas and Kanade 1981; pyramids after Bouguet 2000). Nothing drifts, because every frame is
compared with keyframes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from avatar.track.mesh import (
    LEFT_BROW,
    LEFT_EYE,
    OUTER_LIPS,
    RIGHT_BROW,
    RIGHT_EYE,
    SKIN_POINTS,
)
from avatar.track.solve import View

FACE_SIDE = 230
"""Height of the face in the pictures that are compared, px ..."""
MOST_SCALE = 2.0
"""... but frames are enlarged by no more than this: patches of a small face would hold too much of it."""
ABOVE, BESIDE, BELOW = 0.45, 0.3, 0.05
"""Room for hair and ears around the mesh, over its size."""
PATTERN_CONTRAST = 40.0
"""Grey levels of one standard deviation of the pattern."""
BAND, CONTRAST_SIDE = 19, 25
"""Sides of the squares whose mean brightness is taken out and whose contrast is levelled, px."""
GRID = 4
"""Spacing of the relief's samples, px."""
REACH = 20
"""Patches reach this far around their points, px: half a WINDOW on the coarsest level."""
WINDOW = 13
"""Side of a patch, px."""
LEVELS = 1
"""Pyramid levels above the finest: displacements up to a dozen px are found."""
THERE_AND_BACK = 0.5
"""A point must come back to within this where it started, px."""
ALIKE = 0.6
"""Mean difference between a patch and its template, over the template's own contrast, up to which they are one."""
CELL = 15
"""At most one point per square of this side, px."""
TEXTURE = 0.7
"""Least strength of a corner over the median of the head's area."""
LEAST_POINTS = 12
"""A keyframe has at least so many points."""
EDGE = 5
"""Points keep this distance from the person's outline and from eyes, brows and lips, px."""
SKULL_CENTRE, SKULL_AXES = np.array([0.0, 0.5, -1.5]), np.array([8.2, 11.5, 10.0])
"""Ellipsoid about the mean head, cm: rough relief of what the mesh does not cover."""
SKULL_REACH = 1.3
"""Points lie within the ellipsoid enlarged by this (hair, ears) ..."""
CHIN_LINE, CROWN_LINE = -6.0, 14.0
"""... and, off the mesh, between these heights, cm: below is the neck."""


@dataclass(frozen=True)
class Picture:
    """Local pattern of a frame, contrast levelled: working pixel = frame pixel * scale - corner."""

    pattern: UInt8[np.ndarray, "h w"]
    scale: float
    corner: Float[np.ndarray, " 2"]


@dataclass(frozen=True)
class Keyframe:
    """Templates of one frame.

    `pixels` are the points in the frame, px; `home` the same in head space, cm, as
    the relief has it; `landmark` the mesh point next to each and `on_mesh` whether the mesh covers it; `contrast` each
    patch's mean distance from its mean, grey levels; `relief` the head-space point in the middle of every square of
    GRID px of `picture`, which is cut out around the points.
    """

    rotation: Float[np.ndarray, "3 3"]
    pixels: Float[np.ndarray, "M 2"]
    home: Float[np.ndarray, "M 3"]
    on_mesh: Bool[np.ndarray, " M"]
    landmark: np.ndarray
    picture: Picture
    contrast: Float[np.ndarray, " M"]
    relief: Float32[np.ndarray, "gh gw 3"]


def working_scale(pixels: Float[np.ndarray, "N 478 2"]) -> float:
    """Scale of the compared pictures for faces of these landmarks, px."""
    return min(MOST_SCALE, FACE_SIDE / float(np.median(np.ptp(pixels[..., 1], axis=1))))


def resampling(scale: float) -> int:
    """OpenCV's way of resizing by `scale`: averages where pixels would be skipped (five times as slow)."""
    import cv2

    if scale > 1:
        return cv2.INTER_CUBIC
    return cv2.INTER_AREA if scale < 0.6 else cv2.INTER_LINEAR


def picture(frame: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "478 2"], scale: float) -> Picture:
    """Local pattern of a frame around its head, which has these landmarks (px of the frame)."""
    import cv2

    size = np.array([frame.shape[1], frame.shape[0]])
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    side = float((high - low).max())
    left, top = np.clip(np.floor(low - side * np.array([BESIDE, ABOVE])), 0, size - 16).astype(int)
    right, bottom = np.clip(np.ceil(high + side * np.array([BESIDE, BELOW])), (left + 16, top + 16), size).astype(int)
    grey = cv2.cvtColor(frame[top:bottom, left:right], cv2.COLOR_RGB2GRAY)
    if scale != 1:
        shape = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
        grey = cv2.resize(grey, shape, interpolation=resampling(scale))
    fine = cv2.GaussianBlur(grey.astype(np.float32), (3, 3), 0.7)
    band = fine - cv2.blur(fine, (BAND, BAND))
    contrast = cv2.sqrt(cv2.blur(band * band, (CONTRAST_SIDE, CONTRAST_SIDE))) + 4
    level = cv2.divide(band, contrast)
    pattern = cv2.addWeighted(level, PATTERN_CONTRAST, level, 0, 127.5, dtype=cv2.CV_8U)
    return Picture(pattern, scale, np.array([left, top]) * scale)


def keyframe(
    frame: UInt8[np.ndarray, "H W 3"],
    person: UInt8[np.ndarray, "S S"],
    points: Float[np.ndarray, "478 3"],
    rotation: Float[np.ndarray, "3 3"],
    translation: Float[np.ndarray, " 3"],
    view: View,
    scale: float,
) -> Keyframe | None:
    """Templates of one frame; None where it has next to no texture.

    Args:
        frame: RGB.
        person: raw mask of the person, 0..255, of any size.
        points: the mesh in head space, cm, under the frame's expression.
        rotation, translation: head pose.
        view: the camera.
        scale: that of `working_scale`.
    """
    import cv2

    landmarks = projected(points, rotation, translation, view)
    shown = picture(frame, landmarks, scale)
    relief, on_mesh = _relief(shown, points[:SKIN_POINTS], landmarks[:SKIN_POINTS], rotation, translation, view)
    marks = landmarks * scale - shown.corner
    area = _head_area(shown, frame.shape[0], person, relief, on_mesh, marks)
    found = _corners(shown.pattern, area)
    if len(found) < LEAST_POINTS:
        return None
    x, y = ((found + 0.5) / GRID - 0.5).astype(np.float32).T[:, None]
    at = lambda layer: cv2.remap(layer, x, y, cv2.INTER_LINEAR)[0]  # noqa: E731
    home = np.stack([at(np.ascontiguousarray(relief[..., k], dtype=np.float32)) for k in range(3)], axis=-1)
    own, relief = _cut_out(shown, relief, found)
    return Keyframe(
        rotation,
        (found + 0.5 + shown.corner) / scale,
        home.astype(np.float64),
        at(on_mesh.astype(np.float32)) > 0.5,
        np.linalg.norm((found + 0.5)[:, None] - marks[None, :SKIN_POINTS], axis=-1).argmin(axis=1),
        own,
        _patch_contrast(shown.pattern, found),
        relief.astype(np.float32),
    )


def _cut_out(shown: Picture, relief, points) -> tuple[Picture, np.ndarray]:
    """The part of a picture and of its relief that the patches of these points (x, y) reach into."""
    low = np.maximum(np.floor((points.min(axis=0) - REACH) / GRID), 0).astype(int)
    high = np.minimum(np.ceil((points.max(axis=0) + REACH) / GRID), relief.shape[1::-1]).astype(int)
    nodes, pixels = (np.s_[low[1] * n : high[1] * n, low[0] * n : high[0] * n] for n in (1, GRID))
    return Picture(np.ascontiguousarray(shown.pattern[pixels]), shown.scale, shown.corner + GRID * low), relief[nodes]


def follow(key: Keyframe, shown: Picture, rotation, translation, view: View):
    """Where a keyframe's points lie in another frame.

    Args:
        key: the keyframe.
        shown: the frame's picture.
        rotation, translation: the pose the frame is believed to have.
        view: the camera.

    Returns:
        [M, 2] px of the frame, and [M] whether each was found.
    """
    import cv2

    scale = key.picture.scale
    nodes = projected(key.relief, rotation.astype(np.float32), translation.astype(np.float32), view)
    nodes = (nodes * scale - (shown.corner + 0.5)).astype(np.float32)
    height, width = key.picture.pattern.shape
    where = cv2.resize(nodes, None, fx=GRID, fy=GRID, interpolation=cv2.INTER_LINEAR)[:height, :width]
    both = np.empty(0, np.float32)  # `where` holds both coordinates
    carried = cv2.remap(shown.pattern, where, both, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    start = (key.pixels * scale - key.picture.corner - 0.5).astype(np.float32)
    options = {"winSize": (WINDOW, WINDOW), "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    there, found, differs = cv2.calcOpticalFlowPyrLK(
        key.picture.pattern, carried, start, start.copy(), maxLevel=LEVELS, criteria=(3, 20, 0.01), **options
    )
    back, _, _ = cv2.calcOpticalFlowPyrLK(
        carried, key.picture.pattern, there, there.copy(), maxLevel=0, criteria=(3, 10, 0.02), **options
    )
    unlike = np.where(found[:, 0] > 0, differs[:, 0] / key.contrast, np.inf)
    same = (unlike < ALIKE) & (np.linalg.norm(back - start, axis=1) < THERE_AND_BACK)
    pixels = cv2.remap(where, there[None, :, 0], there[None, :, 1], cv2.INTER_LINEAR)[0]
    return (pixels + 0.5 + shown.corner) / scale, same


def projected(points: Float[np.ndarray, "*b 3"], rotation, translation, view: View) -> Float[np.ndarray, "*b 2"]:
    """Head-space points in the frame, px, under a pose."""
    return view.project(points @ rotation.T + translation)


def _relief(shown: Picture, points, landmarks, rotation, translation, view: View):
    """Head-space point seen at each node of a grid over the picture [gh, gw, 3], and where the mesh covers it."""
    import cv2
    from scipy.interpolate import LinearNDInterpolator

    height, width = shown.pattern.shape
    nodes = np.stack(np.meshgrid(*((np.arange(-(-n // GRID)) + 0.5) * GRID for n in (width, height))), axis=-1)
    pixels = (nodes + shown.corner) / shown.scale
    ray = np.concatenate([(pixels - view.centre) / view.focal, np.ones_like(pixels[..., :1])], axis=-1) @ rotation
    eye = -translation @ rotation
    a, b = ray / SKULL_AXES, (eye - SKULL_CENTRE) / SKULL_AXES
    aa, ab = (a * a).sum(-1), a @ b
    inside = ab**2 - aa * (b @ b - 1)
    depth = (-ab - np.sqrt(np.maximum(inside, 0))) / aa  # the near side, or the closest approach of a ray that misses
    mesh = LinearNDInterpolator(landmarks, (points @ rotation.T + translation)[:, 2])(pixels)
    covered = np.isfinite(mesh)
    depth = cv2.GaussianBlur(np.where(covered, mesh, depth), (0, 0), 1.0)
    return eye + depth[..., None] * ray, covered


def _head_area(shown: Picture, size: int, person, relief, on_mesh, marks) -> UInt8[np.ndarray, "h w"]:
    """Where templates may lie: the head without neck, eyes, brows and lips, inside the person's outline."""
    import cv2

    height, width = shown.pattern.shape
    off = np.linalg.norm((relief - SKULL_CENTRE) / SKULL_AXES, axis=-1)
    tall = (relief[..., 1] > CHIN_LINE) & (relief[..., 1] < CROWN_LINE)
    allowed = (on_mesh | ((off < SKULL_REACH) & tall)).astype(np.uint8)
    area = cv2.resize(allowed, None, fx=GRID, fy=GRID, interpolation=cv2.INTER_NEAREST)[:height, :width]
    per_pixel = person.shape[0] / (size * shown.scale)
    carry = np.array([[per_pixel, 0, 0], [0, per_pixel, 0]])
    carry[:, 2] = per_pixel * (shown.corner + 0.5) - 0.5
    mask = cv2.warpAffine(person, carry, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    area &= cv2.erode((mask > 200).astype(np.uint8), np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8))
    for contour in (RIGHT_EYE, LEFT_EYE, RIGHT_BROW, LEFT_BROW, OUTER_LIPS):
        hull = cv2.convexHull(marks[list(contour)].astype(np.float32)).astype(np.int32)
        cv2.fillConvexPoly(area, hull, (0,))
        cv2.polylines(area, [hull], True, (0,), 2 * EDGE)
    area[:EDGE], area[-EDGE:], area[:, :EDGE], area[:, -EDGE:] = 0, 0, 0, 0
    return area


def _corners(pattern, area) -> Float[np.ndarray, "M 2"]:
    """The strongest corner of each square, as indices (x, y)."""
    import cv2

    strength = cv2.cornerMinEigenVal(pattern, 7)
    inside = area > 0
    if not inside.any():
        return np.zeros((0, 2))
    peak = inside & (strength == cv2.dilate(strength, np.ones((7, 7), np.uint8)))
    y, x = np.nonzero(peak & (strength > TEXTURE * np.median(strength[inside])))
    order = np.argsort(-strength[y, x])
    cell = (y // CELL) * pattern.shape[1] + x // CELL
    _, first = np.unique(cell[order], return_index=True)
    chosen = order[np.sort(first)]
    return np.stack([x[chosen], y[chosen]], axis=1).astype(np.float64)


def _patch_contrast(pattern, corners) -> Float[np.ndarray, " M"]:
    """Mean distance of each patch's pixels from their mean, grey levels."""
    reach = WINDOW // 2
    padded = np.pad(pattern.astype(np.float32), reach, mode="edge")
    patches = [padded[int(y) : int(y) + WINDOW, int(x) : int(x) + WINDOW] for x, y in corners]
    return np.array([np.abs(p - p.mean()).mean() for p in patches], dtype=np.float64)
