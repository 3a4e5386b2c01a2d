"""Motion refined against the picture: analysis by synthesis with a finished avatar.

The avatar is drawn as the tracked motion says, compared with the frame, and head pose, torso pose and coefficients are
moved down the rasterizer's own gradient until the two agree; the avatar itself stays as it is. The landmark solution
is the prior throughout: every correction is measured in the tracker's own standard errors and held to zero, so that
what the picture does not tell stays as tracked. Small pictures come first (wide basin, cheap steps), and a frame starts
from the correction of the one before it, because a tracker errs alike in neighbouring frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from avatar.dataset import MotionBatch, motion_tensors
from avatar.model import AvatarModel
from avatar.train.corrections import COLUMNS, apply_correction
from avatar.types import Camera, Motion


@dataclass(frozen=True)
class RefineConfig:
    """How motion is refined."""

    steps: tuple[int, ...] = (8, 14)
    """Steps at each size, smallest pictures first."""
    sides: tuple[int, ...] = (128, 256)
    """Largest side of the pictures compared, px."""
    pose_rate: float = 0.25
    """Adam's rate at the first step of a size, in units of corrections.ROTATION_UNIT and TRANSLATION_UNIT_CM."""
    coefficient_rate: float = 0.01
    pose_weight: float = 1e-4
    """Weight of the mean square pose correction, in those units, against the mean absolute colour difference."""
    coefficient_weight: float = 2e-3
    """The same for the coefficients' changes."""
    code_rate: float = 0.03
    code_weight: float = 2e-5
    """The same for the changes of the appearance codes, which are of unit size."""
    batch: int = 4
    """Neighbouring frames that are refined side by side."""


def refine_motion(
    model: AvatarModel,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    motion: Motion,
    camera: Camera,
    weights: Callable[[int], Float[np.ndarray, "H W"]] | None = None,
    config: RefineConfig = RefineConfig(),
    advance: Callable[[], None] = lambda: None,
) -> Motion:
    """The motion under which the avatar looks most like the frames, near the motion given.

    Args:
        model: a finished avatar's model; it is not changed.
        frames: the pictures, one for each frame of `motion`, read one batch at a time.
        motion: tracked motion.
        camera: the view the frames were taken with; its size is theirs.
        weights: [H, W] how much each pixel of a frame (by its position in `motion`) counts; None counts all alike.
        config: steps, rates and the weights of the prior.
        advance: called once per frame.
    """
    device = model.backdrop.device
    everything = motion_tensors(motion, device)
    if everything.codes is None:
        everything = replace(everything, codes=model.features.likeliest_codes(everything))
    count, codes = len(everything), 0 if everything.codes is None else everything.codes.shape[1]
    changes = [torch.zeros(count, width, device=device) for width in (COLUMNS, 52, codes)]
    frozen = [p for p in model.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        stream = iter(frames)
        for start in range(0, count, config.batch):
            part = slice(start, min(start + config.batch, count))
            pictures = np.stack([next(stream) for _ in range(part.stop - start)])
            masks = None if weights is None else np.stack([weights(k) for k in range(start, part.stop)])
            batch = everything.at(part)
            before = max(start - 1, 0)
            first = [change[before].expand(len(batch), -1) for change in changes]
            refined = _refine_batch(model, batch, pictures, masks, camera, first, config)
            for change, found in zip(changes, refined, strict=True):
                change[part] = found
            for _ in range(len(batch)):
                advance()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return _corrected(motion, _moved(everything, *changes))


def _refine_batch(model, batch: MotionBatch, pictures, masks, camera: Camera, first, config: RefineConfig):
    """Pose corrections [B, 12], coefficient changes [B, 52] and code changes [B, C] of a few frames."""
    device = batch.coefficients.device
    target = torch.from_numpy(pictures).to(device).float().div_(255).permute(0, 3, 1, 2)
    weight = torch.ones_like(target[:, :1]) if masks is None else torch.from_numpy(masks).to(target)[:, None]
    changes = [values.clone().requires_grad_(True) for values in first]
    rates = (config.pose_rate, config.coefficient_rate, config.code_rate)
    weights = (config.pose_weight, config.coefficient_weight, config.code_weight)
    for side, steps in zip(config.sides, config.steps, strict=True):
        scale = min(1.0, side / camera.width)
        view = camera.scaled(round(camera.width * scale), round(camera.height * scale))
        truth, share = (
            functional.interpolate(image, (view.height, view.width), mode="area").permute(0, 2, 3, 1)
            for image in (target, weight)
        )
        share = share / share.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        optimiser = torch.optim.Adam(
            [{"params": [change], "lr": rate} for change, rate in zip(changes, rates, strict=True)], betas=(0.8, 0.95)
        )
        fade = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step, steps=steps: 1 - 0.9 * step / steps)
        for _ in range(steps):
            image = model(_moved(batch, *changes), view).image
            # summed over frames: each is refined on its own
            difference = ((image - truth).abs() * share).mean(dim=(1, 2, 3)).sum()
            held = [weight * change.square().sum() for change, weight in zip(changes, weights, strict=True)]
            optimiser.zero_grad()
            (difference + torch.stack(held).sum()).backward()
            optimiser.step()
            fade.step()
    return [change.detach() for change in changes]


def _moved(
    batch: MotionBatch, poses: Float[Tensor, "B 12"], expression: Float[Tensor, "B 52"], codes: Float[Tensor, "B C"]
) -> MotionBatch:
    return MotionBatch(
        (batch.coefficients + expression).clamp(0, 1),
        apply_correction(batch.camera_from_head, poses[:, :6]),
        apply_correction(batch.camera_from_torso, poses[:, 6:]),
        None if batch.codes is None else batch.codes + codes,
    )


def _corrected(motion: Motion, moved: MotionBatch) -> Motion:
    def whole(pose: Tensor) -> Float[np.ndarray, "N 4 4"]:
        out = np.repeat(np.eye(4)[None], len(pose), axis=0)
        out[:, :3] = pose.cpu().numpy()
        return out

    return Motion(
        motion.times,
        moved.coefficients.cpu().numpy(),
        whole(moved.camera_from_head),
        whole(moved.camera_from_torso),
        None if moved.codes is None else moved.codes.cpu().numpy(),
    )
