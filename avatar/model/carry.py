"""How the face mesh carries what lies around it: the landmarks' motion with each coefficient, at any point.

Skin follows the nearest triangle of the mesh, and between the lids the eyeball follows the iris. Inside the mouth the
upper teeth keep to the skull and the lower ones to the jaw; the curtain that makes the cavity dark falls from above as
the lips open, and below the lower lip bares it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import ConvexHull, cKDTree

from avatar.conventions import BLENDSHAPES
from avatar.track.mesh import CHIN, INNER_LIPS, LEFT_EYE, LEFT_IRIS, RIGHT_EYE, RIGHT_IRIS, triangles

REACH_CM: Final = 2.5
"""Distance from the mesh at which its motion has fallen to 1/e."""
CANDIDATES: Final = 8
"""Triangles, by distance of their centres, among which the nearest to a point is looked for (32 of 18,000
points have one nearer still, by a hair)."""
EYES: Final = ((RIGHT_EYE, RIGHT_IRIS), (LEFT_EYE, LEFT_IRIS))
EYE_EDGE_CM: Final = 0.2
"""From the lids to where the eyeball follows the iris alone."""
EYE_DEPTH_CM: Final = 1.5
"""What lies further before or behind the lids is none of the eye."""
THROAT_DEPTH_CM: Final = 2.0
"""Throat begins this far behind the lips, and is all throat after as much again."""
THROAT_HEIGHT_CM: Final = 3.5
"""It ends this far below the chin."""
UPPER_LIP, LOWER_LIP = INNER_LIPS[4:7], INNER_LIPS[14:17]  # their middle
JAW: Final = [i for i, name in enumerate(BLENDSHAPES) if name.startswith("jaw")]
TEETH_EDGE_CM: Final = 0.2
"""What lies lower than this below the edge of the lower lip is the jaw's: at rest the lip hides it, and what shows
between the lips are the upper teeth. What lies between, over a quarter of this height, would be torn: it is little."""
CAVITY_DEPTH_CM: Final = 2.2
"""What lies deeper behind the lips than this is the curtain of the cavity; what lies before it is teeth and tongue."""
CURTAIN_ABOVE_CM: Final = 0.7
CURTAIN_BELOW_CM: Final = 1.4
"""Where the curtain begins at rest, above the upper lip's edge and below the lower one's: learned motion opens the lips
too and does not move it, and what the clip showed must stay as it is."""
CURTAIN_CM: Final = 0.8
"""Height of either part at rest."""
CURTAIN_FALL: Final = 1.5
"""The upper part falls faster than the lips open, to make up for that start."""


def carried_by_face(
    points: Float[np.ndarray, "N 3"], mesh: Float[np.ndarray, "478 3"], field: Float[np.ndarray, "C 478 3"]
) -> Float[np.ndarray, "C N 3"]:
    """Displacements of landmarks at points on and around the face, cm."""
    corners, shares, distance = _nearest_triangle(points, mesh, _skin_triangles())
    shares = shares * np.exp(-((distance / REACH_CM) ** 2))[:, None]
    moved = np.einsum("nj,cnjd->cnd", shares, field[:, corners])
    for lids, iris in EYES:
        ring = mesh[list(lids)]
        outline = ConvexHull(ring[:, :2]).equations  # unit normals pointing out, offsets
        inside = (-points[:, :2] @ outline[:, :2].T - outline[:, 2]).min(axis=1)
        near = np.abs(points[:, 2] - ring[:, 2].mean()) < EYE_DEPTH_CM
        share = ((inside / EYE_EDGE_CM).clip(0, 1) * near)[:, None]
        moved += share * (field[:, list(iris)].mean(axis=1, keepdims=True) - moved)
    throat = _throat(points, mesh)[:, None]
    return moved + throat * (_jaw(field) - moved)


def _throat(points: Float[np.ndarray, "N 3"], mesh: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, " N"]:
    """How much of a point moves with the jaw because it lies behind and below the mouth: an opening jaw must not bare
    the skin of the neck, which the face's layer would show before the teeth."""
    lips, chin = mesh[list(INNER_LIPS)], mesh[CHIN, 1]
    deep = (lips[:, 2].min() - points[:, 2]) / THROAT_DEPTH_CM - 1
    high = (points[:, 1] - chin) / THROAT_HEIGHT_CM + 1
    below = (lips[:, 1].mean() - points[:, 1]) / THROAT_DEPTH_CM
    across = 2 - np.abs(points[:, 0] - lips[:, 0].mean()) / (0.5 * np.ptp(lips[:, 0]))
    return np.prod([ramp.clip(0, 1) for ramp in (deep, high, below, across)], axis=0)


def _jaw(field: Float[np.ndarray, "C 478 3"]) -> Float[np.ndarray, "C 1 3"]:
    """Displacement of the lower teeth: that of the lower lip, where the jaw makes it."""
    down = field[:, list(LOWER_LIP)].mean(axis=1, keepdims=True)
    return np.isin(np.arange(len(field)), JAW)[:, None, None] * down


def _skin_triangles() -> Int[np.ndarray, "T 3"]:
    """The mesh without the triangles that span mouth and eyes: there the two sides move apart."""
    every = triangles().astype(np.int64)
    openings = [np.isin(every, ring).all(axis=1) for ring in (INNER_LIPS, RIGHT_EYE, LEFT_EYE)]
    return every[~np.any(openings, axis=0)]


def _nearest_triangle(
    points: Float[np.ndarray, "N 3"], mesh: Float[np.ndarray, "478 3"], corners: Int[np.ndarray, "T 3"]
) -> tuple[Int[np.ndarray, "N 3"], Float[np.ndarray, "N 3"], Float[np.ndarray, " N"]]:
    """Of each point's nearest triangle: corners, barycentric shares of the nearest place on it, distance (cm)."""
    _, near = cKDTree(mesh[corners].mean(axis=1)).query(points, k=CANDIDATES)
    places = [_in_plane(points, mesh[corners[near]])]
    places += [_on_edge(points, mesh[corners[near]], i, (i + 1) % 3) for i in range(3)]
    shares = np.stack(places, axis=2)  # N, candidates, ways, 3
    shares = shares.reshape(len(points), -1, 3)
    owner = corners[np.repeat(near, len(places), axis=1)]
    distance = np.linalg.norm(np.einsum("nkj,nkjd->nkd", shares, mesh[owner]) - points[:, None], axis=2)
    distance[(shares < 0).any(axis=2)] = np.inf  # beside the triangle
    best = distance.argmin(axis=1)[:, None]
    chosen = [np.take_along_axis(a, best[:, :, None], axis=1)[:, 0] for a in (owner, shares)]
    return chosen[0], chosen[1], np.take_along_axis(distance, best, axis=1)[:, 0]


def _in_plane(points: Float[np.ndarray, "N 3"], corners: Float[np.ndarray, "N K 3 3"]) -> Float[np.ndarray, "N K 3"]:
    """Barycentric shares of the foot of the perpendicular; below 0 where that lies beside the triangle."""
    a, ab, ac = corners[:, :, 0], corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    normal = np.cross(ab, ac)
    area = np.maximum((normal**2).sum(axis=2), 1e-12)
    to = points[:, None] - a
    second = (np.cross(to, ac) * normal).sum(axis=2) / area
    third = (np.cross(ab, to) * normal).sum(axis=2) / area
    return np.stack([1 - second - third, second, third], axis=2)


def _on_edge(
    points: Float[np.ndarray, "N 3"], corners: Float[np.ndarray, "N K 3 3"], start: int, end: int
) -> Float[np.ndarray, "N K 3"]:
    """Barycentric shares of the nearest place on an edge."""
    edge = corners[:, :, end] - corners[:, :, start]
    along = ((points[:, None] - corners[:, :, start]) * edge).sum(axis=2) / np.maximum((edge**2).sum(axis=2), 1e-12)
    shares = np.zeros(corners.shape[:3])
    shares[:, :, end] = along.clip(0, 1)
    shares[:, :, start] = 1 - shares[:, :, end]
    return shares


def carried_in_mouth(
    points: Float[np.ndarray, "N 3"], mesh: Float[np.ndarray, "478 3"], field: Float[np.ndarray, "C 478 3"]
) -> Float[np.ndarray, "C N 3"]:
    """Displacements of landmarks at points behind the lips, cm."""
    upper, lower = list(UPPER_LIP), list(LOWER_LIP)
    top, bottom, front = mesh[upper, 1].mean(), mesh[lower, 1].mean(), mesh[upper + lower, 2].mean()
    height, curtain = points[:, 1], points[:, 2] < front - CAVITY_DEPTH_CM
    teeth = (4 * (bottom - height) / TEETH_EDGE_CM - 3.5).clip(0, 1)
    fallen = CURTAIN_FALL * (1 - (height - top - CURTAIN_ABOVE_CM) / CURTAIN_CM).clip(0, 1)
    bared = ((bottom - height - CURTAIN_BELOW_CM) / CURTAIN_CM).clip(0, 1)
    share = np.where(height > (top + bottom) / 2, fallen, bared)[:, None]
    up, down = field[:, upper].mean(axis=1, keepdims=True), field[:, lower].mean(axis=1, keepdims=True)
    return np.where(curtain[:, None], (1 - share) * up + share * down, teeth[:, None] * _jaw(field))
