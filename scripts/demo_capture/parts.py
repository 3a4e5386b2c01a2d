"""Procedural parts of the demo person that the base mesh does not have: eyeballs, teeth and gums, shirt and jacket.

Everything is a `Surface`: vertices, normals and per-vertex paint in head space (eyeballs in their own), cm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import NearestNDInterpolator
from scipy.ndimage import gaussian_filter

from .head_asset import HeadAsset
from .mesh import grid_quads, incidence_of, quad_normals, subdivide, triangulate


@dataclass(frozen=True)
class Surface:
    """Triangles with per-vertex paint; the meaning of the paint is the material's (see shaders/)."""

    vertices: np.ndarray
    """(V, 3) cm."""
    normals: np.ndarray
    paint: np.ndarray
    """(V, 4)."""
    triangles: np.ndarray
    """(T, 3) int32."""


def from_grid(points: np.ndarray, paint: np.ndarray, wrap: bool = False) -> Surface:
    """A surface over a (rows, columns, 3) grid; paint is (rows, columns, 4) or (4,)."""
    rows, columns = points.shape[:2]
    quads = grid_quads(rows, columns, wrap)
    vertices = points.reshape(-1, 3)
    normals = quad_normals(vertices, quads, incidence_of(quads, len(vertices)))
    paint = np.broadcast_to(paint, (rows, columns, 4)).reshape(-1, 4)
    return Surface(vertices, normals, paint, triangulate(quads))


def join(parts: list[Surface]) -> Surface:
    """All parts as one surface."""
    starts = np.cumsum([0] + [len(p.vertices) for p in parts[:-1]])
    return Surface(
        np.concatenate([p.vertices for p in parts]), np.concatenate([p.normals for p in parts]),
        np.concatenate([p.paint for p in parts]),
        np.concatenate([p.triangles + s for p, s in zip(parts, starts, strict=True)]).astype(np.int32),
    )  # fmt: skip


# --- eyes ---------------------------------------------------------------------------------------------------------

IRIS_ANGLE = 0.445
"""Angle between the optical axis and the rim of the iris, radians: 6 mm on the eyeball's 13.9 mm radius."""


def eyeball(radius: float) -> Surface:
    """An eyeball around the origin that looks along +z, with the cornea bulging 4 % over the iris.

    Paint: (angle from the axis, 0, 0, 0)."""
    rings, columns = 72, 72
    # Rings are densest over the iris; the back half is never seen.
    angle = np.linspace(1e-3, 1.0, rings) ** 1.2 * 1.75
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    bulge = 1 + 0.04 * np.clip(1 - (angle / (IRIS_ANGLE * 1.12)) ** 2, 0, 1)
    r = radius * bulge
    points = np.stack([
        (r * np.sin(angle))[:, None] * np.cos(turn), (r * np.sin(angle))[:, None] * np.sin(turn),
        np.broadcast_to((r * np.cos(angle))[:, None], (rings, columns)),
    ], axis=-1)  # fmt: skip
    paint = np.zeros((rings, columns, 4))
    paint[..., 0] = angle[:, None]
    surface = from_grid(points, paint, wrap=True)
    outward = np.sign((surface.normals * surface.vertices).sum(1, keepdims=True))
    return Surface(surface.vertices, surface.normals * outward, surface.paint, surface.triangles)


# --- teeth --------------------------------------------------------------------------------------------------------

UPPER_CROWNS = ((0.88, 1.04), (0.68, 0.90), (0.78, 1.00), (0.70, 0.84), (0.68, 0.78), (1.02, 0.72), (0.98, 0.70))
LOWER_CROWNS = ((0.54, 0.88), (0.60, 0.90), (0.70, 0.98), (0.71, 0.86), (0.72, 0.80), (1.08, 0.74), (1.02, 0.70))
"""Width and height of the crowns in cm from the middle outwards (textbook averages)."""
ARCH_HALF_WIDTH, ARCH_DEPTH = 2.75, 3.7
PAINT_TOOTH, PAINT_GUM = 0.0, 1.0


def _arch(arc_length: np.ndarray, front_z: float) -> tuple[np.ndarray, np.ndarray]:
    """Point (x, z) and outward direction of the dental arch (half an ellipse, then straight).

    `arc_length` is the signed distance from the middle, cm."""
    t = np.linspace(-1.9, 1.9, 2400)
    u = np.clip(t, -np.pi / 2, np.pi / 2)
    x = ARCH_HALF_WIDTH * np.sin(u)
    z = front_z - ARCH_DEPTH * (1 - np.cos(u)) - 4.0 * np.abs(t - u)  # straight behind the last molar
    s = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    s -= s[-1] / 2
    at = np.stack([np.interp(arc_length, s, x), np.interp(arc_length, s, z)], -1)
    ahead = np.stack([np.interp(arc_length + 1e-2, s, x), np.interp(arc_length + 1e-2, s, z)], -1) - at
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    return at, np.stack([-ahead[..., 1], ahead[..., 0]], -1)


def _crown(width: float, height: float, upper: bool, depth: float = 0.42) -> np.ndarray:
    """A tooth as a (rows, columns, 3) grid: x along the arch, y from the biting edge (0) to the gum (height), z out."""
    rows, columns = 18, 24
    v = np.linspace(0, 1, rows)[:, None]
    a = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    # Superellipse cross-section, narrower at the neck and rounded at the biting edge.
    across = np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.55
    out = np.sign(np.sin(a)) * np.abs(np.sin(a)) ** 0.75
    edge = np.sqrt(np.clip(1 - (1 - np.clip(v / 0.2, 0, 1)) ** 2.6, 0, 1))
    half = 0.5 * width * (1.0 - 0.16 * v**1.5) * (0.72 + 0.28 * edge)
    thick = depth * (0.22 + 0.5 * v) * edge + 0.015
    belly = 0.09 * np.sin(np.pi * np.clip(v * 0.9 + 0.1, 0, 1))
    x, z = half * across, thick * 0.5 * out + belly - 0.25 * thick
    y = np.broadcast_to(v * height * (1.25 if upper else 1.2), x.shape)
    return np.stack([x, y, z], -1)


def denture(upper: bool, bite_y: float, front_z: float) -> Surface:
    """Teeth and gum of one jaw. Paint: (tooth 0 | gum 1, height from the biting edge 0..1, per-tooth tint,
    nearness to the neighbouring tooth)."""
    crowns = UPPER_CROWNS if upper else LOWER_CROWNS
    sign = 1.0 if upper else -1.0
    rng = np.random.default_rng(11 if upper else 12)
    parts = []
    for side in (-1, 1):
        s = 0.0
        for k, (width, height) in enumerate(crowns):
            centre = side * (s + width / 2)
            s += width * 0.985
            at, out = _arch(np.array(centre), front_z)
            grid = _crown(width, height, upper)
            lift = (0.05 if upper and k == 1 else 0.0) + rng.uniform(-0.012, 0.012)
            turn = rng.uniform(-0.04, 0.04)
            along = np.array([out[1], -out[0]])
            along, out = along * np.cos(turn) + out * np.sin(turn), out * np.cos(turn) - along * np.sin(turn)
            points = np.empty_like(grid)
            for axis, d in ((0, 0), (2, 1)):
                points[..., axis] = at[d] + grid[..., 0] * along[d] + grid[..., 2] * out[d]
            points[..., 1] = bite_y + sign * (grid[..., 1] + lift)
            paint = np.zeros((*grid.shape[:2], 4))
            paint[..., 1] = np.linspace(0, 1, grid.shape[0])[:, None]
            paint[..., 2] = rng.uniform(0, 1)
            paint[..., 3] = np.abs(np.cos(np.linspace(0, 2 * np.pi, grid.shape[1], endpoint=False)))[None] ** 0.55
            parts.append(_outward(from_grid(points, paint, wrap=True)))
    parts.append(_gum(upper, bite_y, front_z, crowns))
    return join(parts)


def _outward(part: Surface) -> Surface:
    """Flips normals so that they point away from the part's middle."""
    flip = np.sign(((part.vertices - part.vertices.mean(0)) * part.normals).sum(1, keepdims=True))
    return Surface(part.vertices, part.normals * np.where(flip == 0, 1, flip), part.paint, part.triangles)


def _gum(upper: bool, bite_y: float, front_z: float, crowns) -> Surface:
    """The gum: a tube along the arch whose lower rim is scalloped around the necks of the teeth."""
    length = sum(w for w, _ in crowns) * 0.985
    s = np.linspace(-length, length, 220)
    a = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    at, out = _arch(s, front_z)
    borders = np.concatenate([[0], np.cumsum([w * 0.985 for w, _ in crowns])])
    k = np.clip(np.searchsorted(borders, np.abs(s), side="right") - 1, 0, len(crowns) - 1)
    within = (np.abs(s) - borders[k]) / np.array([w for w, _ in crowns])[k]
    neck = np.array([h for _, h in crowns])[k] - 0.13 * (1 - np.sin(np.pi * np.clip(within, 0, 1)) ** 0.8)
    sign = 1.0 if upper else -1.0
    depth = 0.05 + 0.27 * np.sin(a)[None] * np.ones_like(s)[:, None]
    rise = 0.75 + 0.75 * np.cos(a)
    points = np.empty((len(s), len(a), 3))
    points[..., 0] = at[:, :1] + out[:, :1] * depth
    points[..., 2] = at[:, 1:] + out[:, 1:] * depth
    points[..., 1] = bite_y + sign * (neck[:, None] + rise[None])
    paint = np.zeros((len(s), len(a), 4))
    paint[..., 0] = PAINT_GUM
    paint[..., 1] = rise / 1.5
    surface = from_grid(points, paint, wrap=True)
    centre = np.repeat(points.mean(1), len(a), axis=0)
    flip = np.sign(((surface.vertices - centre) * surface.normals).sum(1, keepdims=True))
    return Surface(surface.vertices, surface.normals * flip, surface.paint, surface.triangles)


# --- clothes ------------------------------------------------------------------------------------------------------

SHIRT, JACKET, COLLAR, LAPEL, BUTTON = 0.0, 1.0, 2.0, 3.0, 4.0
"""Paint channel 0 of a garment."""


class _Front:
    """Depth of a garment's front as a function of (x, y), smoothed: what lapels and collars are laid upon."""

    def __init__(self, vertices: np.ndarray, normals: np.ndarray) -> None:
        front = (normals[:, 2] > 0.05) | (vertices[:, 2] > -3)
        nearest = NearestNDInterpolator(vertices[front, :2], vertices[front, 2])
        self.x, self.y = np.linspace(-26, 26, 209), np.linspace(-48, -8, 161)
        grid = nearest(*np.meshgrid(self.x, self.y))
        self.z = gaussian_filter(grid, 5, mode="nearest")

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        i = np.clip((x + 26) / 0.25, 0, 207.99)
        j = np.clip((y + 48) / 0.25, 0, 159.99)
        i0, j0 = i.astype(int), j.astype(int)
        u, v = i - i0, j - j0
        z = self.z
        low = z[j0, i0] * (1 - u) + z[j0, i0 + 1] * u
        high = z[j0 + 1, i0] * (1 - u) + z[j0 + 1, i0 + 1] * u
        return low * (1 - v) + high * v


def _garment(asset: HeadAsset, outside, offset: float, kind: float, smooth: int, snap=None) -> Surface:
    """The body's skin below the neck, smoothed into cloth and pushed out by `offset` cm.

    `outside(points)` is True where there is no cloth; `snap(points)` moves the border's points onto the true edge."""
    fine = subdivide(asset.body_quads, len(asset.vertices), 2)
    cloth = fine.matrix @ asset.vertices
    share = fine.matrix @ asset.head_share
    quads = fine.quads[((cloth[:, 1] < -9) & (share < 0.75))[fine.quads].all(1)]
    near = np.unique(quads)
    incidence = incidence_of(quads, len(cloth))
    valence = np.maximum(np.asarray(incidence.sum(1)), 1)
    for _ in range(smooth):  # cloth bridges hollows of the body
        cloth[near] = ((incidence @ (cloth[quads].mean(1))) / valence)[near]
    normals = quad_normals(cloth, quads, incidence)
    cloth = cloth + normals * offset
    if kind == JACKET:  # padded shoulders
        pad = np.exp(-(((np.abs(cloth[:, 0]) - 17.0) / 4.0) ** 2)) * np.clip(normals[:, 1], 0, 1)
        cloth[:, 1] += 1.3 * pad
    away = outside(cloth)
    quads = quads[~away[quads].all(1)]
    if snap is not None:
        border = np.unique(quads)
        border = border[away[border]]
        cloth[border] = snap(cloth[border])
    index, local = np.unique(quads, return_inverse=True)
    quads = local.reshape(-1, 4)
    vertices = cloth[index]
    normals = quad_normals(vertices, quads, incidence_of(quads, len(vertices)))
    paint = np.zeros((len(vertices), 4))
    paint[:, 0] = kind
    return Surface(vertices, normals, paint, triangulate(quads))


def _edge_x(y: np.ndarray) -> np.ndarray:
    """Half width of the jacket's opening at height y: the fold line of the lapels."""
    return np.interp(y, [-46.0, -41.0, -24.0, -15.5, -12.0], [0.0, 0.4, 4.6, 6.7, 7.2])


def _lapel(front: _Front, side: int) -> Surface:
    """A notched lapel: a grid from the fold line outwards, lying on the jacket."""
    rows, columns = 90, 22
    y = np.linspace(-15.2, -41.5, rows)[:, None]
    w = np.linspace(0, 1, columns)[None]
    # Width from the fold: up to the notch it grows, below it tapers to the button.
    width = np.interp(y, [-41.5, -38.0, -30.0, -22.2, -20.6, -15.2], [0.05, 1.6, 4.9, 8.1, 5.6, 3.2])
    x = _edge_x(y) - 0.15 + w * width * 0.98
    yy = y - w * width * 0.06 + 0.0 * x
    yy = yy + np.clip(w, 0, 1) ** 2 * np.interp(y, [-24, -22.2, -20.0], [0.0, 1.1, 0.2])
    lift = 0.60 - 0.16 * w + 0.45 * np.exp(-(((w - 0.06) / 0.12) ** 2)) - 0.35 * np.clip((w - 0.93) / 0.07, 0, 1) ** 2
    roll = 1 - np.clip((w - 0.0) / 0.05, 0, 1)
    z = front(x, yy) + lift - roll**2 * 0.9
    x = x - roll * 0.12
    points = np.stack([side * x, yy, z], -1)
    paint = np.zeros((rows, columns, 4))
    paint[..., 0] = LAPEL
    paint[..., 1] = w
    part = from_grid(points if side > 0 else points[:, ::-1], paint if side > 0 else paint[:, ::-1])
    return _facing(part)


def _facing(part: Surface) -> Surface:
    flip = np.sign(part.normals[:, 2].mean()) or 1.0
    return Surface(part.vertices, part.normals * flip, part.paint, part.triangles)


def _collar(
    kind: float,
    centre: tuple[float, float],
    radii: tuple[float, float],
    base: Callable[[np.ndarray], np.ndarray],
    stand: float,
    fall: Callable[[np.ndarray], np.ndarray],
    opening: float,
    flare: float,
    points_out: float,
) -> Surface:
    """A turned-down collar around the neck.

    `centre` (x, z) and `radii` of the neck's ellipse, `base(theta)` height of the seam, `stand` height of the inner
    wall, `fall(theta)` length of the turned-down leaf, `opening` half angle of the gap in front, `flare` how far the
    leaf stands off, `points_out` how far the front points swing outwards."""
    theta = np.linspace(opening, 2 * np.pi - opening, 160)[:, None]  # 0 = straight ahead
    u = np.linspace(0, 1, 30)[None]
    up = np.clip(u / 0.38, 0, 1)
    down = np.clip((u - 0.38) / 0.62, 0, 1)
    bend = np.exp(-(((u - 0.38) / 0.07) ** 2))
    near_front = np.exp(-(((np.minimum(theta, 2 * np.pi - theta) - opening) / 0.45) ** 2))
    leaf = fall(theta) * (1 + 0.25 * near_front)
    height = base(theta) + stand * up - leaf * down
    out = 0.05 + 0.12 * up + down * (flare + 0.28 * leaf * 0.6) + 0.12 * bend
    swing = points_out * near_front * down**1.5
    angle = theta + np.where(theta < np.pi, swing, -swing)
    x = centre[0] + (radii[0] + out) * np.sin(angle)
    z = centre[1] + (radii[1] + out) * np.cos(angle)
    points = np.stack([x, height + 0 * x, z], -1)
    paint = np.zeros((*x.shape, 4))
    paint[..., 0] = kind
    paint[..., 1] = u
    surface = from_grid(points, paint)
    outward = surface.vertices - np.array([centre[0], 0, centre[1]])
    outward[:, 1] = 0
    leaf_part = (np.tile(u, (len(theta), 1)) > 0.38).ravel()
    flip = np.sign((surface.normals * outward)[leaf_part].sum()) or 1.0
    return Surface(surface.vertices, surface.normals * flip, surface.paint, surface.triangles)


def _neck_seam(theta: np.ndarray) -> np.ndarray:
    """Height of the collar's seam around the neck; 0 = straight ahead."""
    return -14.9 - 3.1 * (0.5 + 0.5 * np.cos(theta)) ** 1.3


def clothes(asset: HeadAsset) -> Surface:
    """Shirt with an open collar under a jacket with notched lapels, in head space at rest; moves with the torso.

    Paint: (kind, position across the part 0..1, 0, 0)."""

    def at_neck(c: np.ndarray, margin: float) -> np.ndarray:
        # Inside the neck's ellipse and above the seam that falls towards the pit of the neck.
        ellipse = (c[:, 0] / (6.5 + margin)) ** 2 + ((c[:, 2] + 2.8) / (6.6 + margin)) ** 2 < 1
        return (ellipse & (c[:, 1] > _neck_seam(np.arctan2(c[:, 0], c[:, 2] + 2.8)) - margin)) | (c[:, 1] > -10.5)

    def at_seam(c: np.ndarray, margin: float) -> np.ndarray:
        # Points inside the neck's ellipse move outwards onto it.
        scale = np.hypot(c[:, 0] / (6.5 + margin), (c[:, 2] + 2.8) / (6.6 + margin))
        grown = np.stack([c[:, 0] / scale, c[:, 1], (c[:, 2] + 2.8) / scale - 2.8], 1)
        return np.where((at_neck(c, margin) & (scale < 1))[:, None], grown, c)

    def shirt_gap(c: np.ndarray) -> np.ndarray:
        return np.interp(c[:, 1], [-27.0, -24.0, -17.0, -14.0], [0.0, 0.7, 2.9, 3.6])

    def shirt_open(c: np.ndarray) -> np.ndarray:
        return (np.abs(c[:, 0]) < shirt_gap(c)) & (c[:, 2] > -3)

    def shirt_snap(c: np.ndarray) -> np.ndarray:
        return np.where(shirt_open(c)[:, None], np.stack([np.sign(c[:, 0]) * shirt_gap(c), c[:, 1], c[:, 2]], 1), c)

    def under_jacket(c: np.ndarray) -> np.ndarray:
        # Never seen, and must not poke through.
        return (np.abs(c[:, 0]) > _edge_x(c[:, 1]) + 1.4) | (c[:, 2] < -6.5)

    def jacket_open(c: np.ndarray) -> np.ndarray:
        return (np.abs(c[:, 0]) < _edge_x(c[:, 1]) + 0.7) & (c[:, 2] > -5)

    shirt = _garment(asset, lambda c: at_neck(c, 0.2) | shirt_open(c) | under_jacket(c), 0.45, SHIRT, 6,
                     lambda c: shirt_snap(at_seam(c, 0.2)))  # fmt: skip
    jacket = _garment(asset, lambda c: at_neck(c, 0.7) | jacket_open(c), 1.15, JACKET, 14,
                      lambda c: at_seam(c, 0.7))  # fmt: skip
    whole = _garment(asset, lambda c: c[:, 1] > -11, 1.15, JACKET, 14)
    front = _Front(whole.vertices, whole.normals)
    lapels = [_lapel(front, side) for side in (1, -1)]
    shirt_collar = _collar(
        COLLAR, (0.0, -2.8), (6.35, 6.5), _neck_seam, 3.1,
        lambda t: 4.3 + 0.8 * np.cos(t) ** 2, 0.36, 0.55, 0.22,
    )  # fmt: skip
    jacket_collar = _collar(
        JACKET, (0.0, -3.2), (7.0, 6.9), lambda t: _neck_seam(t) - 0.3, 2.2,
        lambda t: 5.2 + 0 * t, 0.80, 1.1, 0.0,
    )  # fmt: skip
    return join([shirt, jacket, jacket_collar, shirt_collar, *lapels])
