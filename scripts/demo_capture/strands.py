"""Hair, brows and lashes: thin strands as polylines that the renderer draws as camera-facing ribbons.

Strands are grown once in head space; brows and lashes are then carried by the deforming skin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .head_asset import HeadAsset
from .mesh import Subdivided


@dataclass(frozen=True)
class Strands:
    """`N` polylines of `P` points."""

    points: np.ndarray
    """(N, P, 3) cm."""
    half_width: np.ndarray
    """(N, P) cm."""
    shade: np.ndarray
    """(N, 2): random number of the strand 0..1, brightness factor."""


@dataclass(frozen=True)
class SkinBinding:
    """Where strands sit on a fine mesh: they move with a quad's own frame."""

    quad: np.ndarray
    """(N,) face index."""
    local: np.ndarray
    """(N, P, 3) points in the frame of that quad at rest."""

    def carried(self, fine: np.ndarray, quads: np.ndarray) -> np.ndarray:
        """Points (N, P, 3) on the deformed mesh."""
        origin, frame = quad_frames(fine, quads[self.quad])
        return origin[:, None] + np.einsum("nij,npj->npi", frame, self.local)


def quad_frames(vertices: np.ndarray, quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (N, 3) and orthonormal frame (N, 3, 3; columns tangent, bitangent, normal) of quads."""
    a, b, c, d = (vertices[quads[:, k]] for k in range(4))
    normal = np.cross(c - a, d - b)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    tangent = (b + c) - (a + d)
    tangent -= normal * (tangent * normal).sum(1, keepdims=True)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    frame = np.stack([tangent, np.cross(normal, tangent), normal], axis=-1)
    return (a + b + c + d) / 4, frame


def bind(points: np.ndarray, fine: np.ndarray, quads: np.ndarray, quad: np.ndarray) -> SkinBinding:
    """Binds strands to the given quads of the mesh at rest."""
    origin, frame = quad_frames(fine, quads[quad])
    return SkinBinding(quad, np.einsum("nji,npj->npi", frame, points - origin[:, None]))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# --- scalp --------------------------------------------------------------------------------------------------------


def scalp_density(points: np.ndarray) -> np.ndarray:
    """How densely hair grows at points (N, 3) of the head's surface, 0..1: the hairline of a short haircut."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    side = np.abs(x)
    wobble = 0.22 * np.sin(x * 2.3 + 0.7) + 0.16 * np.sin(x * 5.1 + y * 2.0) + 0.1 * np.sin(x * 9.7 + y * 6.1)
    # The forehead's border: a soft widow's peak, receding at the temples.
    border = 6.55 - 0.25 * np.exp(-((x / 1.4) ** 2)) + 0.75 * np.exp(-(((side - 4.3) / 1.5) ** 2))
    front = _ramp(y + wobble - border, -0.15, 0.75)
    # Behind a line from the temple to the sideburn the side of the head is hairy down to the ear.
    temple = 4.3 + 0.10 * (y - 2.0) - 0.35 * np.clip(-y, 0, 4)
    sideward = _ramp(temple - z + 0.7 * wobble, -0.1, 0.8) * _ramp(side, 4.5, 6.0)
    sideburn = _ramp(y + 0.8 * wobble, -2.6, -1.2)
    around_ear = 1 - np.exp(-(np.clip(((z + 0.3) / 2.2) ** 2 + ((y + 1.8) / 3.1) ** 2, 0, 9) ** 3))
    back = _ramp(-z, 1.2, 2.8) * _ramp(y + wobble, -7.2, -5.2)
    lower = np.maximum(sideward * sideburn, back) * np.where(side > 6.0, around_ear, 1.0)
    return np.clip(np.maximum(front, np.where(y > border + 1, 1.0, lower)), 0, 1)


def _comb(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Direction (N, 3) the hair is combed to at points of the scalp: a side parting, top swept across and back."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    parting = 3.6
    top = _ramp(y, 4.5, 7.0)
    across = np.where(x < parting, -1.0, 1.0) * (0.55 + 0.45 * _ramp(z, -6, 5))
    over = np.stack([across * 0.75, 0.15 * _ramp(z, 3, 7), -0.75 + 0.25 * _ramp(z, 2, 7)], -1)
    down = np.stack([0.0 * x, -1.0 + 0 * x, -0.55 - 0.2 * _ramp(z, 0, 4)], -1)
    return _unit(over * top[:, None] + down * (1 - top[:, None]) + rng.normal(0, 0.09, points.shape))


def grow_hair(fine: np.ndarray, mesh: Subdivided, bare: np.ndarray, count: int, seed: int) -> Strands:
    """Short combed hair on the scalp: strands march along the comb direction above the skin, gathered into locks.

    `bare` (V,) marks vertices that no hair grows on or rests against."""
    rng = np.random.default_rng(seed)
    quads = mesh.quads[~bare[mesh.quads].any(1)]
    centre, frame = quad_frames(fine, quads)
    # Hair at the back of the head never comes into view.
    outer = _outer_skin(centre, frame[:, :, 2]) & (frame[:, 2, 2] > -0.55)
    quads, centre, frame = quads[outer], centre[outer], frame[outer]
    corner = fine[quads]
    area = np.linalg.norm(np.cross(corner[:, 2] - corner[:, 0], corner[:, 3] - corner[:, 1]), axis=1)
    chance = area * scalp_density(centre)
    pick = rng.choice(len(quads), count, p=chance / chance.sum())
    uv = rng.random((count, 2, 1))
    roots = (corner[pick, 0] * (1 - uv[:, 0]) + corner[pick, 1] * uv[:, 0]) * (1 - uv[:, 1]) + (
        corner[pick, 3] * (1 - uv[:, 0]) + corner[pick, 2] * uv[:, 0]
    ) * uv[:, 1]
    keep = rng.random(count) < scalp_density(roots) ** 0.7 + 0.02
    roots, normals = roots[keep], frame[pick, :, 2][keep]
    return _march(roots, normals, centre, frame[:, :, 2], rng)


def _outer_skin(centre: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """True for skin that faces away from the head's middle (not the inside of mouth, ears or nose)."""
    return ((_unit(centre * [1, 0.8, 1]) * normal).sum(1) > 0.25) & (np.linalg.norm(centre, axis=1) > 6.2)


def _march(roots, normals, skin, skin_normals, rng) -> Strands:
    count, steps = len(roots), 10
    tree = cKDTree(skin)
    top = _ramp(roots[:, 1], 3.5, 7.5)
    length = (1.5 + 4.6 * top) * rng.uniform(0.75, 1.12, count)
    length *= (0.55 + 0.45 * scalp_density(roots)) * (1 - 0.55 * _ramp(-roots[:, 1], 0.0, 5.0))
    layer = (0.10 + 0.95 * top * (0.75 + 0.25 * _ramp(roots[:, 2], -8, 4))) * rng.uniform(0.25, 1.0, count)
    quiff = _ramp(roots[:, 2], 2.5, 6.5) * top
    layer *= 1 + 0.5 * quiff
    step = (length / (steps - 1))[:, None]
    points = np.empty((count, steps, 3))
    points[:, 0] = roots - normals * 0.06
    wander = rng.normal(0, 1, (count, 3)) * np.where(rng.random((count, 1)) < 0.03, 2.6, 1.0)  # a few stray hairs
    for k in range(1, steps):
        at = points[:, k - 1]
        t = (k - 1) / (steps - 2)
        comb = _comb(at, rng)
        _, near = tree.query(at)
        normal = skin_normals[near]
        comb = comb - normal * (comb * normal).sum(1, keepdims=True)
        lift = np.clip(1.1 * (1 - t / 0.45), 0, None)[..., None] if np.ndim(t) else max(1.1 * (1 - t / 0.45), 0.0)
        direction = _unit(_unit(comb) + normal * (lift * (0.35 + 0.9 * top + 0.6 * quiff))[:, None] + 0.10 * wander)
        points[:, k] = at + direction * step
        # Stay in one's own layer above the skin: not inside the head, not flying off.
        _, near = tree.query(points[:, k])
        above = ((points[:, k] - skin[near]) * skin_normals[near]).sum(1)
        wanted = layer * min(1.0, k / 4)
        points[:, k] += skin_normals[near] * (np.clip(wanted - above, -0.25, 0.35) * 0.7)[:, None]
    points = _gather(points, rng)
    t = np.linspace(0, 1, steps)
    half_width = 0.022 * np.clip(1.25 - t**2, 0.1, 1)[None] * rng.uniform(0.7, 1.25, (count, 1))
    fade = 0.45 + 0.55 * scalp_density(roots)
    brightness = rng.normal(1.0, 0.16, count).clip(0.6, 1.5)
    return Strands(points, half_width * fade[:, None], np.stack([rng.random(count), brightness], 1))


def _gather(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pulls the tips towards the nearest of a few guide strands: locks."""
    count, steps = points.shape[:2]
    guides = rng.choice(count, max(count // 38, 1), replace=False)
    _, nearest = cKDTree(points[guides, 0]).query(points[:, 0])
    guide = points[guides[nearest]]
    t = np.linspace(0, 1, steps)[None, :, None]
    strength = rng.uniform(0.25, 0.75, (count, 1, 1))
    return points + (guide - points) * strength * t**1.4 * 0.8


# --- brows and lashes ---------------------------------------------------------------------------------------------


def grow_brows(fine: np.ndarray, mesh: Subdivided, seed: int) -> tuple[Strands, SkinBinding]:
    """Both eyebrows, bound to the skin."""
    rng = np.random.default_rng(seed)
    centre, frame = quad_frames(fine, mesh.quads)
    all_points, all_quads = [], []
    # Only the front of the head; otherwise the nearest quad could be inside the skull.
    front = np.flatnonzero((centre[:, 2] > 4) & (frame[:, 2, 2] > 0.1) & (centre[:, 1] > 0) & (centre[:, 1] < 5))
    flat = cKDTree(centre[front, :2])
    for side in (1, -1):
        count = 900
        u = rng.beta(1.05, 1.15, count)  # 0 = by the nose, 1 = tail
        thickness = np.interp(u, [0, 0.12, 0.5, 0.8, 1], [0.40, 0.52, 0.50, 0.34, 0.06])
        v = rng.normal(0, 0.42, count).clip(-1, 1)
        x = np.interp(u, [0, 1], [1.05, 5.0])
        arch = np.interp(u, np.linspace(0, 1, 6), [1.18, 1.34, 1.52, 1.66, 1.56, 1.12])
        y = arch + v * thickness
        _, at = flat.query(np.stack([side * x, y], 1))
        quad = front[at]
        normal = frame[quad, :, 2]
        along = np.stack([side * np.ones(count), np.interp(u, [0, 0.15, 0.5, 0.75, 1], [2.2, 0.75, 0.25, -0.25, -0.5])
                          - 0.7 * v, np.zeros(count)], 1)  # fmt: skip
        along = _unit(along + rng.normal(0, 0.16, along.shape))
        along = _unit(along - normal * (along * normal).sum(1, keepdims=True))
        length = np.interp(u, [0, 0.3, 1], [0.6, 0.85, 0.6]) * rng.uniform(0.7, 1.1, count)
        t = np.linspace(0, 1, 6)[None, :, None]
        z = (
            centre[quad, 2]
            - (normal[:, 0] * (side * x - centre[quad, 0]) + normal[:, 1] * (y - centre[quad, 1])) / (normal[:, 2])
        )
        root = np.stack([side * x, y, z], 1)
        rise = 0.16 * t * (1.15 - t)
        points = root[:, None] + along[:, None] * (length[:, None, None] * t) + normal[:, None] * (rise + 0.015)
        all_points.append(points)
        all_quads.append(quad)
    points, quad = np.concatenate(all_points), np.concatenate(all_quads)
    width = 0.0155 * np.linspace(1, 0.25, points.shape[1])[None] * rng.uniform(0.7, 1.2, (len(points), 1))
    shade = np.stack([rng.random(len(points)), rng.normal(1.0, 0.2, len(points)).clip(0.4, 1.6)], 1)
    return Strands(points, width, shade), bind(points, fine, mesh.quads, quad)


@dataclass(frozen=True)
class LashBinding:
    """Lashes between the skin edge and the free edge of the asset's lash ribbons (coarse vertex indices)."""

    root: np.ndarray
    """(N, 2) indices of the two root vertices, then `tip` likewise, mixed by `mix` (N,)."""
    tip: np.ndarray
    mix: np.ndarray
    curl: np.ndarray
    """(N,) cm."""
    reach: np.ndarray
    """(N,) share of the ribbon's width."""
    steps: int = 6

    def carried(self, coarse: np.ndarray) -> np.ndarray:
        """Points (N, P, 3) on the deformed coarse mesh."""
        m = self.mix[:, None]
        a = coarse[self.root[:, 0]] * (1 - m) + coarse[self.root[:, 1]] * m
        b = coarse[self.tip[:, 0]] * (1 - m) + coarse[self.tip[:, 1]] * m
        t = np.linspace(0, 1, self.steps)[None, :, None]
        bend = np.array([0, 1.0, 0.0]) * self.curl[:, None]
        return a[:, None] + (b - a)[:, None] * self.reach[:, None, None] * t + bend[:, None] * (t * t - t)


def grow_lashes(asset: HeadAsset, seed: int) -> tuple[Strands, LashBinding]:
    """Lashes along the ribbons that the base mesh carries at its lids."""
    rng = np.random.default_rng(seed)
    v = asset.vertices
    roots, tips, mixes, curls, reaches = [], [], [], [], []
    for centre in asset.eye_centres:
        quads = asset.lashes_quads[np.abs(v[asset.lashes_quads[:, 0], 0] - centre[0]) < 2.4]
        # The root edge of a ribbon quad is the one nearest to the eyeball.
        distance = np.linalg.norm(v[quads] - centre, axis=2)
        for quad, d in zip(quads, distance, strict=True):
            sides = [(d[k] + d[(k + 1) % 4], k) for k in range(4)]
            _, k = min(sides)
            r0, r1, t1, t0 = quad[k], quad[(k + 1) % 4], quad[(k + 2) % 4], quad[(k + 3) % 4]
            reach = np.linalg.norm(v[[t0, t1]] - v[[r0, r1]], axis=1).mean()
            width = np.linalg.norm(v[r1] - v[r0])
            upper = v[[r0, r1], 1].mean() > v[[t0, t1], 1].mean() - 0.35 and v[r0, 1] > centre[1] - 0.25
            if reach < 0.12 or v[[r0, r1], 2].mean() < centre[2] + 0.2:
                continue
            for _ in range(rng.poisson(width * (46 if upper else 7))):
                roots.append((r0, r1))
                tips.append((t0, t1))
                mixes.append(rng.random())
                reaches.append(rng.uniform(0.75, 1.1) if upper else rng.uniform(0.35, 0.6))
                curls.append((0.20 if upper else -0.06) * rng.uniform(0.6, 1.3))
    binding = LashBinding(np.array(roots), np.array(tips), np.array(mixes), np.array(curls), np.array(reaches))
    points = binding.carried(v)
    width = 0.019 * np.linspace(1, 0.2, binding.steps)[None] * rng.uniform(0.7, 1.1, (len(points), 1))
    shade = np.stack([rng.random(len(points)), np.full(len(points), 0.35)], 1)
    return Strands(points, width, shade), binding
