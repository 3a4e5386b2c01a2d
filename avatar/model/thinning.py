"""Training with some Gaussians missing, so that none relies on being hidden behind others.

In a clip that shows a head from a few sides, Gaussians behind the surface may have any colour, and a few at the rim may
share one stroke of hair between them. Once the head turns further than in the clip they show: dashes, fringes, stains.
Where every picture is drawn without a random part of them, what lies behind has to look like what lies before it
(DropGaussian, Park, Ryu and Kim, CVPR 2025, there against overfitting to few views).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from avatar.raster import MovingGaussians

GONE, OPAQUE = 1e-7, 0.995
"""Least and greatest opacity that any is drawn with."""


def thinned(gaussians: dict[str, MovingGaussians], shown: Float[Tensor, " N"]) -> dict[str, MovingGaussians]:
    """The Gaussians with their opacities changed.

    Args:
        gaussians: of the branches, in the order of `shown`.
        shown: factor on each opacity: 0 leaves one out, more than 1 makes up for others that are.
    """
    parts = shown.split([len(part.opacity_logits) for part in gaussians.values()])
    return {
        name: part._replace(opacity_logits=_scaled(part.opacity_logits, factor))
        for (name, part), factor in zip(gaussians.items(), parts, strict=True)
    }


def _scaled(opacity_logits: Float[Tensor, " n"], factor: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    covers = functional.logsigmoid(opacity_logits) + factor.clamp_min(GONE).log()
    covers = covers.clamp(math.log(GONE), math.log(OPAQUE))
    return covers - torch.log1p(-covers.exp())  # the logit of what it covers, whose slope is finite at both ends
