"""What training minimises."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from avatar.config import LossConfig
from avatar.conventions import BRANCHES, REGION_HEAD, REGION_MOUTH
from avatar.dataset import FrameBatch
from avatar.model import AvatarModel, Composite
from avatar.raster import l1_ssim


def training_loss(
    model: AvatarModel,
    composite: Composite,
    batch: FrameBatch,
    correction_size: Float[Tensor, ""],
    config: LossConfig,
) -> dict[str, Float[Tensor, ""]]:
    """The weighted terms by name; their sum is the loss."""
    l1, ssim = l1_ssim(composite.image, batch.images, pixel_weights(batch, config.mouth_weight))
    terms = {"l1": (1 - config.dssim) * l1, "dssim": config.dssim * (1 - ssim)}
    if composite.coverage is not None:
        terms["labels"] = config.labels * coverage_loss(composite, batch)
    opacity = torch.cat([torch.sigmoid(model.branch(n).opacity_logits) for n in BRANCHES])
    scales = torch.cat([torch.exp(model.branch(n).log_scales).flatten() for n in BRANCHES])
    terms["opacity"] = config.opacity * opacity.mean()
    terms["scale"] = config.scale * scales.mean()
    terms["corrections"] = config.corrections * 1e-4 * correction_size
    return terms


def pixel_weights(batch: FrameBatch, mouth_weight: float) -> Float[Tensor, "B H W"]:
    """1 everywhere, `mouth_weight` in the box around the lips, scaled to mean 1."""
    weights = torch.ones_like(batch.matte)
    for row, (left, top, right, bottom) in zip(weights, batch.mouth_boxes.tolist(), strict=True):
        row[top:bottom, left:right] = mouth_weight
    return weights / weights.mean()


def coverage_loss(composite: Composite, batch: FrameBatch) -> Float[Tensor, ""]:
    """Each branch covers its own region and the person covers the matte: mean absolute difference."""
    assert composite.coverage is not None
    face = (batch.labels == REGION_HEAD) * batch.matte
    mouth = (batch.labels == REGION_MOUTH) * batch.matte
    target = torch.stack([face, mouth], dim=-1)
    return (composite.coverage - target).abs().mean() + (composite.alpha - batch.matte).abs().mean()
