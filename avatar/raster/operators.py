"""``torch.library`` operators of the native code: functional, on CPU tensors, with fake and autograd registrations.

``avatar::rasterize`` and ``avatar::l1_ssim``; `avatar.raster.ops` is their only caller. Argument checks are there.
"""

# No `from __future__ import annotations`: torch reads the operators' schemas from live annotations, which a runtime
# type checker may have wrapped.

import torch
from torch import Tensor

from avatar.raster import native

# ------------------------------------------------------------------------------------------------ rasterize operator


@torch.library.custom_op("avatar::rasterize", mutates_args=(), device_types="cpu")
def rasterize_op(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    colors: Tensor,
    skin: Tensor,
    poses: Tensor,
    intrinsics: Tensor,
    layers: Tensor,
    grad_sink: Tensor | None,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image, alpha, and two opaque int32 buffers for the backward pass."""
    scene = [t.contiguous() for t in (means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics)]
    return native.forward(scene, layers.contiguous(), width, height)


@rasterize_op.register_fake
def _(means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics, layers, grad_sink, width, height):
    batch, channels = means.shape[0], colors.shape[2]
    context = torch.library.get_ctx()
    return (
        means.new_empty(batch, height, width, channels),
        means.new_empty(batch, height, width),
        means.new_empty(context.new_dynamic_size(), dtype=torch.int32),
        means.new_empty(context.new_dynamic_size(), dtype=torch.int32),
    )


@torch.library.custom_op("avatar::rasterize_backward", mutates_args=(), device_types="cpu")
def rasterize_backward_op(
    means: Tensor,
    quats: Tensor,
    log_scales: Tensor,
    opacity_logits: Tensor,
    colors: Tensor,
    skin: Tensor,
    poses: Tensor,
    intrinsics: Tensor,
    image: Tensor,
    alpha: Tensor,
    records: Tensor,
    lists: Tensor,
    v_image: Tensor,
    v_alpha: Tensor,
    with_sink: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first eight arguments and the sink's increment ((N, 2), or empty without sink)."""
    scene = [t.contiguous() for t in (means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics)]
    images = [t.contiguous() for t in (image, alpha, v_image, v_alpha)]
    g = native.backward(scene, images, records, lists, image.shape[2], image.shape[1], with_sink)
    return g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8]


@rasterize_backward_op.register_fake
def _(
    means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics,
    image, alpha, records, lists, v_image, v_alpha, with_sink,
):  # fmt: skip
    scene = (means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics)
    return (*(t.new_empty(t.shape) for t in scene), means.new_empty(means.shape[1] if with_sink else 0, 2))


def _rasterize_context(ctx, inputs, output) -> None:
    image, alpha, records, lists = output
    ctx.set_materialize_grads(False)  # no zeros for the outputs nobody used
    # not saved as a tensor of the graph: several calls may share one sink, and each backward changes it
    ctx.grad_sink = inputs[9]
    ctx.save_for_backward(*inputs[:8], image, alpha, records, lists)


def _rasterize_autograd(ctx, v_image, v_alpha, _v_records, _v_lists):
    *_, image, alpha, _, _ = ctx.saved_tensors
    v_image = torch.zeros_like(image) if v_image is None else v_image
    v_alpha = torch.zeros_like(alpha) if v_alpha is None else v_alpha
    *gradients, sink = rasterize_backward_op(*ctx.saved_tensors, v_image, v_alpha, ctx.grad_sink is not None)
    if ctx.grad_sink is not None:
        ctx.grad_sink.add_(sink.to(ctx.grad_sink.dtype))
    return (*gradients, None, None, None, None)


rasterize_op.register_autograd(_rasterize_autograd, setup_context=_rasterize_context)


# ------------------------------------------------------------------------------------------------ image loss operator


@torch.library.custom_op("avatar::l1_ssim", mutates_args=(), device_types="cpu")
def l1_ssim_op(
    image: Tensor, target: Tensor, weights: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """l1, ssim, sum of weights * channels, and (with_gradient) d ssim / d image times that sum."""
    image, target, weights = image.contiguous(), target.contiguous(), weights.contiguous()
    l1, ssim, v_ssim_image = native.l1_ssim(image, target, weights, with_gradient)
    total = max(weights.sum(dtype=torch.float64).item() * image.shape[-1], torch.finfo(image.dtype).tiny)
    return image.new_tensor(l1 / total), image.new_tensor(ssim / total), image.new_tensor(total), v_ssim_image


@l1_ssim_op.register_fake
def _(image, target, weights, with_gradient):
    scalar = image.new_empty
    return scalar(()), scalar(()), scalar(()), image.new_empty(image.shape if with_gradient else (0,))


@torch.library.custom_op("avatar::l1_ssim_backward", mutates_args=(), device_types="cpu")
def l1_ssim_backward_op(
    image: Tensor, target: Tensor, weights: Tensor, total: Tensor, v_ssim_image: Tensor, v_l1: Tensor, v_ssim: Tensor
) -> Tensor:
    """d loss / d image, from the gradients of the two scalars."""
    image, target, weights = image.contiguous(), target.contiguous(), weights.contiguous()
    scale = 1.0 / total.item()
    return native.l1_ssim_backward(image, target, weights, v_ssim_image, v_l1.item() * scale, v_ssim.item() * scale)


@l1_ssim_backward_op.register_fake
def _(image, target, weights, total, v_ssim_image, v_l1, v_ssim):
    return image.new_empty(image.shape)


def _l1_ssim_context(ctx, inputs, output) -> None:
    image, target, weights, with_gradient = inputs
    ctx.set_materialize_grads(False)
    ctx.with_gradient = with_gradient
    ctx.save_for_backward(image, target, weights, output[2], output[3])


def _l1_ssim_autograd(ctx, v_l1, v_ssim, _v_total, _v_map):
    if not ctx.with_gradient:
        raise RuntimeError("avatar::l1_ssim was called without with_gradient and cannot be differentiated.")
    image, target, weights, total, v_ssim_image = ctx.saved_tensors
    v_l1 = torch.zeros_like(total) if v_l1 is None else v_l1
    v_ssim = torch.zeros_like(total) if v_ssim is None else v_ssim
    return l1_ssim_backward_op(image, target, weights, total, v_ssim_image, v_l1, v_ssim), None, None, None


l1_ssim_op.register_autograd(_l1_ssim_autograd, setup_context=_l1_ssim_context)
