from __future__ import annotations

import torch

from avatar.model.thinning import OPAQUE, thinned
from avatar.raster import MovingGaussians


def branch(opacity_logits: torch.Tensor) -> MovingGaussians:
    count = len(opacity_logits)
    return MovingGaussians(
        torch.zeros(count, 3), torch.zeros(count, 4), torch.zeros(count, 3), opacity_logits, torch.zeros(count, 3),
        torch.zeros(count), torch.zeros(2, count, 14), torch.zeros(1, 2),
    )  # fmt: skip


def test_each_branch_is_drawn_with_its_own_factors() -> None:
    opacity = torch.tensor([0.1, 0.4, 0.99])
    gaussians = {"face": branch(torch.logit(opacity)), "torso": branch(torch.logit(opacity))}
    found = thinned(gaussians, torch.tensor([1.25, 0.0, 1.25, 1.0, 1.0, 1.0]))
    face, torso = (torch.sigmoid(found[name].opacity_logits) for name in ("face", "torso"))
    torch.testing.assert_close(face, torch.tensor([0.125, 0.0, OPAQUE]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torso, opacity, atol=1e-5, rtol=0)
    assert found["face"].means is gaussians["face"].means


def test_gradients_stay_finite_at_the_ends_and_reach_what_is_shown() -> None:
    logits = torch.tensor([-200.0, -3.0, 0.5, 200.0, 0.5], requires_grad=True)
    shown = thinned({"face": branch(logits)}, torch.tensor([1.0, 1.1, 1.1, 1.1, 0.0]))["face"].opacity_logits
    assert bool(torch.isfinite(shown).all())
    (slope,) = torch.autograd.grad(torch.sigmoid(shown).sum(), logits)
    assert bool(torch.isfinite(slope).all())
    assert slope[1] > 0 and slope[2] > 0 and slope[4] == 0
