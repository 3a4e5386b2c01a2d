"""The smallest ellipsoid about given points: what is between and about them, and nothing where none of them goes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS, TOLERANCE = 3000, 0.02
"""Steps at most, and by how much the farthest point may lie outside before the ellipsoid is blown up to hold it."""
MOST_POINTS = 4000
"""Of more points only those farthest out by their common covariance are looked at."""
THICKNESS = 1e-3
"""Share of the mean squared half axis that is added to all of them: points in a plane have no volume."""


@torch.no_grad()
def enclosing_ellipsoid(points: Float[Tensor, "N K"]) -> tuple[Float[Tensor, " K"], Float[Tensor, "K K"]]:
    """Khachiyan's algorithm (Rounding of polytopes in the real number model of computation, 1996).

    Returns:
        middle, and a symmetric whitening: the ellipsoid is where ``|whitening (x - middle)| <= 1``; all points are in.
    """
    every = points.double().cpu()
    size = every.shape[1]
    middle, whitening = _shape(every, torch.full((len(every),), 1 / len(every), dtype=torch.float64))
    far = ((every - middle) @ whitening).norm(dim=1).topk(min(MOST_POINTS, len(every))).indices.sort().values
    outer = every[far]
    lifted = torch.cat([outer, torch.ones_like(outer[:, :1])], dim=1)
    share = torch.full((len(outer),), 1 / len(outer), dtype=torch.float64)
    flat = 1e-9 * torch.eye(size + 1, dtype=torch.float64)
    for _ in range(ROUNDS):
        spread = lifted.T @ (share[:, None] * lifted) + flat
        out = (torch.linalg.solve(spread, lifted.T).T * lifted).sum(dim=1)
        farthest = int(out.argmax())
        most = float(out[farthest])
        if most <= (1 + TOLERANCE) * (size + 1):
            break
        step = (most - size - 1) / ((size + 1) * (most - 1))
        share *= 1 - step
        share[farthest] += step
    middle, whitening = _shape(outer, share)
    whitening /= ((every - middle) @ whitening).norm(dim=1).amax().clamp_min(1e-6)
    return middle.to(points), whitening.to(points)


def _shape(points: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of points and inverse root of their covariance, thickened."""
    middle = share @ points
    apart = points - middle
    covariance = (share[:, None] * apart).T @ apart
    room = THICKNESS * covariance.trace() / len(covariance) + 1e-8
    power, axes = torch.linalg.eigh(covariance + room * torch.eye(len(covariance), dtype=torch.float64))
    return middle, axes @ torch.diag(power.clamp_min(room).rsqrt()) @ axes.T
