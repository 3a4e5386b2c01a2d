"""The smallest ellipsoid about points: it holds them all, and little else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avatar.model import ellipsoid
from avatar.model.ellipsoid import enclosing_ellipsoid


def lengths(points: torch.Tensor, middle: torch.Tensor, whitening: torch.Tensor) -> torch.Tensor:
    return ((points - middle) @ whitening).norm(dim=1)


def volume(whitening: torch.Tensor) -> float:
    return 1 / float(torch.linalg.det(whitening.double()))


def test_all_points_are_in_and_the_ellipsoid_they_lie_on_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=1)
    shape = torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.2]])
    points = ball @ shape + torch.tensor([1.0, -2.0, 3.0])
    middle, whitening = enclosing_ellipsoid(points)
    assert float(lengths(points, middle, whitening).max()) == pytest.approx(1.0, abs=1e-4)
    assert middle.numpy() == pytest.approx(np.array([1.0, -2.0, 3.0]), abs=0.05)
    assert volume(whitening) == pytest.approx(float(torch.linalg.det(shape)), rel=0.15)


def test_rare_extremes_are_held_without_the_rest_swelling() -> None:
    """A cloud, and a few points far out along one axis: by covariance alone all axes would have to grow with them."""
    generator = torch.Generator().manual_seed(1)
    cloud = torch.randn(1000, 4, generator=generator)
    cloud[:5, 0] = 40.0
    middle, whitening = enclosing_ellipsoid(cloud)
    assert float(lengths(cloud, middle, whitening).max()) == pytest.approx(1.0, abs=1e-4)
    across = middle.repeat(2, 1) + torch.tensor([[0.0, 8.0, 0.0, 0.0], [0.0, 0.0, 0.0, -8.0]])
    assert float(lengths(across, middle, whitening).min()) > 1.2


@pytest.mark.parametrize("count,width", [(1, 3), (4, 8), (50, 8)])
def test_few_flat_and_equal_points(count: int, width: int) -> None:
    points = torch.zeros(count, width)
    points[:, 0] = torch.linspace(-1, 1, count)
    middle, whitening = enclosing_ellipsoid(points)
    assert bool(torch.isfinite(whitening).all()) and bool(torch.isfinite(middle).all())
    assert float(lengths(points, middle, whitening).max()) <= 1 + 1e-4


def test_of_many_points_those_far_out_decide(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(3000, 3, generator=generator)
    whole = volume(enclosing_ellipsoid(points)[1])
    monkeypatch.setattr(ellipsoid, "MOST_POINTS", 300)
    middle, whitening = enclosing_ellipsoid(points)
    assert float(lengths(points, middle, whitening).max()) <= 1 + 1e-4
    assert volume(whitening) == pytest.approx(whole, rel=0.1)
