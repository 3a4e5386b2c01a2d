"""gsplat (Ye et al. 2024, https://github.com/nerfstudio-project/gsplat, 1.5 or newer) as a second rasterizer.

For cross-checking and benchmarking on a GPU. Skinning and the covariance in camera space are plain PyTorch here; gsplat
projects and blends. Its differences: splats end at 3.33 standard deviations where ours end at alpha 1/255, and a pixel
stops before the splat that would take its transmittance below 1e-4 where ours stops after it. Compositing layers are
drawn one by one. Agreement on a GPU: images within 0.01, gradients within 2 % in norm (tests/raster/test_gsplat.py).
"""

from __future__ import annotations

import importlib.util

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar.errors import UserError
from avatar.raster import reference


def unavailable() -> str:
    """Why gsplat cannot be used here, or an empty string when it can."""
    if importlib.util.find_spec("gsplat") is None:
        return "the package gsplat is not installed (pip install 'avatar[gsplat]')"
    if not torch.cuda.is_available():
        return "gsplat needs a CUDA device"
    return ""


def rasterize(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"],
    log_scales: Float[Tensor, "B N 3"],
    opacity_logits: Float[Tensor, "B N"],
    colors: Float[Tensor, "B N C"],
    skin: Float[Tensor, " N"],
    layers: Int[Tensor, " N"],
    poses: Float[Tensor, "B 2 3 4"],
    intrinsics: Float[Tensor, " 4"],
    width: int,
    height: int,
    grad_sink: Tensor | None = None,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W"]]:
    """As `avatar.raster.rasterize`.

    Raises:
        UserError: gsplat is not installed, or there is no GPU.
    """
    if why := unavailable():
        raise UserError(f"The gsplat rasterizer cannot run: {why}.")
    position, covariance = camera_space(means, quats, log_scales, skin, poses)
    opacities = torch.sigmoid(opacity_logits)
    image = means.new_zeros(means.shape[0], height, width, colors.shape[-1])
    passed = means.new_ones(means.shape[0], height, width, 1)
    for layer in layers.unique(sorted=True):
        rows = torch.nonzero(layers == layer).flatten()
        sink = None if grad_sink is None else (grad_sink, rows)
        part, alpha = _one_layer(
            position[:, rows], covariance[:, rows], opacities[:, rows], colors[:, rows], intrinsics, width, height, sink
        )
        image = image + passed * part
        passed = passed * (1 - alpha)
    return image, 1 - passed.squeeze(-1)


def camera_space(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"],
    log_scales: Float[Tensor, "B N 3"],
    skin: Float[Tensor, " N"],
    poses: Float[Tensor, "B 2 3 4"],
) -> tuple[Float[Tensor, "B N 3"], Float[Tensor, "B N 3 3"]]:
    """Skinned positions and covariances in camera space, cm and cm^2."""
    s = skin[None, :, None, None]
    blended = s * poses[:, None, 0] + (1 - s) * poses[:, None, 1]
    linear, shift = blended[..., :3], blended[..., 3]
    position = (linear @ means[..., None])[..., 0] + shift
    scales = log_scales.clamp(*reference.LOG_SCALE_RANGE).exp()[..., None, :]
    root = linear @ reference.rotation_from_quat(quats) * scales
    return position, root @ root.transpose(-1, -2)


def _one_layer(position, covariance, opacities, colors, intrinsics, width, height, sink) -> tuple[Tensor, Tensor]:
    """Premultiplied picture (B, H, W, C) and alpha (B, H, W, 1)."""
    from gsplat import rasterization

    batch = position.shape[0]
    fx, fy, cx, cy = intrinsics.unbind()
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    camera = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(1, 3, 3)
    image, alpha, info = rasterization(
        position, None, None, opacities, colors,
        torch.eye(4, device=position.device).expand(batch, 1, 4, 4), camera.expand(batch, 1, 3, 3), width, height,
        near_plane=reference.NEAR_CM, eps2d=reference.BLUR_PX2, packed=False, rasterize_mode="antialiased",
        covars=covariance,
    )  # fmt: skip
    if sink is not None and info["means2d"].requires_grad:
        grad_sink, rows = sink
        visible = (info["radii"] > 0).all(-1)[:, 0]

        def add(v_mean2d: Tensor) -> None:
            part = grad_sink.new_zeros(len(rows), 2)
            reference.accumulate_sink(part, v_mean2d[:, 0], visible)
            grad_sink.index_add_(0, rows, part)

        info["means2d"].register_hook(add)
    return image[:, 0], alpha[:, 0]
