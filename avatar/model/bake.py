"""A `hashgrid` avatar turned into one with linear bases, which is what files hold and players draw.

The field's offsets over the clip's own drivers are a matrix of frames by numbers; its leading left singular vectors
say how each basis is weighted in each frame, `BasisWeights` is fitted to give those weights from the driver, and the
bases are then the least-squares ones for the weights as fitted. The matrix is never held whole: the singular vectors
come from its Gram matrix, summed over chunks of Gaussians, and the bases from a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.dataset import MotionBatch
from avatar.model.gaussians import BASIS_COLUMNS, BASIS_WIDTH, CANONICAL, Branch
from avatar.model.model import AvatarModel
from avatar.model.motion import BasisWeights

FRAMES = 256
"""Drivers sampled from the clip, evenly."""
ROWS_AT_ONCE = 2**16
"""Gaussians times frames of one chunk: about 100 MB."""
FIT_STEPS = 500
FIT_RATE = 3e-3
RIDGE = 1e-6
"""Of the linear part's least squares, over the mean square of a feature."""

Offsets = Callable[[Tensor, Tensor], Tensor]
"""From means (N, 3) and driver features (B, D) to offsets (B, N, BASIS_WIDTH), as `HashField`."""


def baked(model: AvatarModel, motion: MotionBatch, bases: dict[str, int], hidden: int) -> AvatarModel:
    """The same avatar with linear bases, as near as so many bases come.

    Args:
        model: one with `hashgrid` motion; it is not changed.
        motion: drivers over which the two shall agree.
        bases: how many, by branch.
        hidden: width of the MLP from driver to basis weights.
    """
    pick = torch.linspace(0, len(motion) - 1, min(FRAMES, len(motion))).round().long().to(motion.coefficients.device)
    few = motion.at(pick)
    features = {name: values.detach() for name, values in model.features(few).items()}
    branches, drivers = {}, {}
    for name, field in model.fields.items():
        branches[name], drivers[name] = bake_branch(model.branch(name), field, features[name], bases[name], hidden)
    result = AvatarModel(model.camera, branches, model.features, model.backdrop.detach(), hidden)
    for name, driver in drivers.items():
        result.drivers[name] = driver
    result.rasterizer = model.rasterizer
    return result.to(model.backdrop.device).eval().requires_grad_(False)


@torch.no_grad()
def bake_branch(
    branch: Branch, offsets: Offsets, features: Float[Tensor, "F D"], bases: int, hidden: int
) -> tuple[Branch, BasisWeights]:
    """One branch with at most as many bases as asked for, and what weights them.

    What the field adds for the zero driver becomes part of the canonical Gaussians, because zero weights show those.
    """
    rest = offsets(branch.means, torch.zeros_like(features[:1]))[0]
    gram = sum(part @ part.T for _, part in _parts(branch, offsets, features, rest))
    assert isinstance(gram, Tensor)
    power, vectors = torch.linalg.eigh(gram)
    count = min(bases, len(features))
    power, vectors = power.flip(0)[:count].clamp_min(0), vectors.flip(1)[:, :count]
    targets = (vectors * len(features) ** 0.5).to(features)  # of unit size, as the weights of a fitted basis model
    driver = fit_weights(features, targets, (power / power.sum().clamp_min(1e-30)).to(features), hidden)
    from_frames = torch.linalg.pinv(driver(features).double(), rtol=1e-6)  # (K, F)
    result = Branch(branch.count, count).to(features.device)
    for key in CANONICAL:
        getattr(result, key).copy_(getattr(branch, key))
    for (key, _, unit), change in zip(BASIS_COLUMNS, rest.split([c[1] for c in BASIS_COLUMNS], dim=-1), strict=True):
        getattr(result, key).add_(unit * change.view_as(getattr(result, key)))
    for rows, part in _parts(branch, offsets, features, rest):
        result.bases[:, rows] = (from_frames @ part).view(count, -1, BASIS_WIDTH).to(features)
    return result, driver


def _parts(
    branch: Branch, offsets: Offsets, features: Float[Tensor, "F D"], rest: Float[Tensor, "N W"]
) -> Iterator[tuple[slice, Float[Tensor, "F P"]]]:
    """The matrix of offsets from rest, some Gaussians' columns at a time, in float64 for the Gram matrix's sake."""
    step = max(1, ROWS_AT_ONCE // len(features))
    for start in range(0, branch.count, step):
        rows = slice(start, start + step)
        part = offsets(branch.means[rows], features) - rest[rows]
        yield rows, part.flatten(1).double()


@torch.enable_grad()
def fit_weights(
    features: Float[Tensor, "F D"], targets: Float[Tensor, "F K"], importance: Float[Tensor, " K"], hidden: int
) -> BasisWeights:
    """A driver that gives the targets: least squares for its linear part, then a short fit of the whole.

    Args:
        importance: of the square error of each column.
    """
    driver = BasisWeights(features.shape[1], targets.shape[1], hidden).to(features.device)
    square = features.T @ features
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square)).to(square)
    with torch.no_grad():
        driver.linear.weight.copy_(torch.linalg.solve(square + ridge, features.T @ targets).T)
        driver.out.weight.zero_()
    optimizer = torch.optim.Adam(driver.parameters(), lr=FIT_RATE)
    best, least = driver.state_dict(), float("inf")
    for step in range(FIT_STEPS):
        optimizer.param_groups[0]["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        error = ((driver(features) - targets).square() * importance).sum(dim=1).mean()
        if error.item() < least:
            best, least = {key: value.clone() for key, value in driver.state_dict().items()}, error.item()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    driver.load_state_dict(best)
    return driver.requires_grad_(False)
