"""``torch.library`` operators of the native code, on CPU and CUDA tensors, with fake and autograd registrations.

``avatar::draw``, ``avatar::rasterize`` and ``avatar::l1_ssim``; `avatar.raster.ops` is their only caller and checks the
arguments. `torch.use_deterministic_algorithms(True)` makes the CUDA gradients the same bits every time (the CPU's are).
"""

# No `from __future__ import annotations`: torch reads the operators' schemas from live annotations, which a runtime
# type checker may have wrapped.

import torch
from torch import Tensor

from avatar.raster import cuda, native

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


def _frames_scene(scene: list[Tensor], layers: Tensor | None, width: int, height: int) -> cuda.Scene:
    """Already deformed Gaussians as the CUDA kernels take them."""
    branch = tuple(t.contiguous() for t in scene[:6])
    units = (1.0,) * cuda.ATTRIBUTES
    poses, intrinsics = scene[6].contiguous(), scene[7].contiguous()
    return cuda.Scene((branch,), poses, intrinsics, None, layers, units, width, height, 0)


@rasterize_op.register_kernel("cuda")
def _(means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics, layers, grad_sink, width, height):
    scene = [means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics]
    image, alpha, state = cuda.draw(cuda.library(), _frames_scene(scene, layers.contiguous(), width, height), keep=True)
    return image, alpha, state, state.new_empty(0)


@rasterize_backward_op.register_kernel("cuda")
def _(
    means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics,
    image, alpha, records, lists, v_image, v_alpha, with_sink,
):  # fmt: skip
    scene = [means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics]
    branches, v_poses, v_intrinsics, _, sink = cuda.draw_backward(
        cuda.library(), _frames_scene(scene, None, image.shape[2], image.shape[1]),
        image.contiguous(), alpha.contiguous(), records, v_image.contiguous(), v_alpha.contiguous(), with_sink,
        torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
    return (*branches[0], v_poses, v_intrinsics, means.new_empty(0, 2) if sink is None else sink)


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


# ------------------------------------------------------------------------------------------------ draw operator


def _by_branch(tensors: list[Tensor]) -> list[list[Tensor]]:
    width = native.PER_BRANCH
    return [[t.contiguous() for t in tensors[i : i + width]] for i in range(0, len(tensors), width)]


@torch.library.custom_op("avatar::draw", mutates_args=(), device_types="cpu")
def draw_op(
    branches: list[Tensor],
    poses: Tensor,
    intrinsics: Tensor,
    background: Tensor | None,
    units: list[float],
    grad_sink: Tensor | None,
    width: int,
    height: int,
    coverage: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """image, alpha, and three opaque buffers for the backward pass (`keep`: one will follow).

    `branches`: eight tensors per branch, in the order of `MovingGaussians`.
    """
    under = None if background is None else background.contiguous()
    frames, parts, layers = native.animate(_by_branch(branches), units, coverage)
    scene = [*parts, poses.contiguous(), intrinsics.contiguous()]
    image, alpha, records, lists = native.forward(scene, layers, width, height, under)
    return image, alpha, frames, records, lists


@draw_op.register_fake
def _(branches, poses, intrinsics, background, units, grad_sink, width, height, coverage, keep):
    batch, context = poses.shape[0], torch.library.get_ctx()
    return (
        poses.new_empty(batch, height, width, 3 + coverage),
        poses.new_empty(batch, height, width),
        poses.new_empty(context.new_dynamic_size()),
        poses.new_empty(context.new_dynamic_size(), dtype=torch.int32),
        poses.new_empty(context.new_dynamic_size(), dtype=torch.int32),
    )


@torch.library.custom_op("avatar::draw_backward", mutates_args=(), device_types="cpu")
def draw_backward_op(
    branches: list[Tensor],
    poses: Tensor,
    intrinsics: Tensor,
    background: Tensor | None,
    units: list[float],
    coverage: int,
    image: Tensor,
    alpha: Tensor,
    frames: Tensor,
    records: Tensor,
    lists: Tensor,
    v_image: Tensor,
    v_alpha: Tensor,
    with_sink: bool,
) -> list[Tensor]:
    """Gradients of the branches' tensors, poses, intrinsics, background, and the sink's increment (or empty)."""
    parts_of = _by_branch(branches)
    splats = sum(b[0].shape[0] for b in parts_of)
    parts = native.frame_parts(frames, poses.shape[0], splats, 3 + coverage)
    scene = [*parts, poses.contiguous(), intrinsics.contiguous()]
    images = [t.contiguous() for t in (image, alpha, v_image, v_alpha)]
    under = None if background is None else background.contiguous()
    g = native.backward(scene, images, records, lists, image.shape[2], image.shape[1], with_sink, under)
    moved = native.animate_backward(parts_of, units, g[:6])
    return [*(t for branch in moved for t in branch), g[6], g[7], g[9], g[8]]


@draw_backward_op.register_fake
def _(
    branches, poses, intrinsics, background, units, coverage, image, alpha, frames, records, lists, v_image, v_alpha,
    with_sink,
):  # fmt: skip
    splats = sum(b.shape[0] for b in branches[:: native.PER_BRANCH])
    like = [*branches, poses, intrinsics]
    under = poses.new_empty(0) if background is None else torch.empty_like(background)
    return [*(t.new_empty(t.shape) for t in like), under, poses.new_empty(splats if with_sink else 0, 2)]


def _moving_scene(branches, poses, intrinsics, background, units, width, height, coverage) -> cuda.Scene:
    return cuda.Scene(
        tuple(tuple(branch) for branch in _by_branch(branches)),
        poses.contiguous(),
        intrinsics.contiguous(),
        None if background is None else background.contiguous(),
        None,
        tuple(units),
        width,
        height,
        coverage,
    )


@draw_op.register_kernel("cuda")
def _(branches, poses, intrinsics, background, units, grad_sink, width, height, coverage, keep):
    scene = _moving_scene(branches, poses, intrinsics, background, units, width, height, coverage)
    image, alpha, state = cuda.draw(cuda.library(), scene, keep)
    return image, alpha, poses.new_empty(0), state, state.new_empty(0)


@draw_backward_op.register_kernel("cuda")
def _(
    branches, poses, intrinsics, background, units, coverage, image, alpha, frames, records, lists, v_image, v_alpha,
    with_sink,
):  # fmt: skip
    scene = _moving_scene(branches, poses, intrinsics, background, units, image.shape[2], image.shape[1], coverage)
    moved, v_poses, v_intrinsics, v_background, sink = cuda.draw_backward(
        cuda.library(), scene, image.contiguous(), alpha.contiguous(), records, v_image.contiguous(),
        v_alpha.contiguous(), with_sink, torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
    under = poses.new_empty(0) if v_background is None else v_background
    increment = poses.new_empty(0, 2) if sink is None else sink
    return [*(t for branch in moved for t in branch), v_poses, v_intrinsics, under, increment]


def _draw_context(ctx, inputs, output) -> None:
    branches, poses, intrinsics, background, units, grad_sink, _, _, coverage, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.grad_sink, ctx.coverage = grad_sink, coverage  # the sink is not part of the graph: see _rasterize_context
    ctx.branch_tensors, ctx.has_background, ctx.units = len(branches), background is not None, units
    ctx.save_for_backward(*branches, poses, intrinsics, *output, *([background] if ctx.has_background else []))


def _draw_autograd(ctx, v_image, v_alpha, _v_frames, _v_records, _v_lists):
    saved, count = ctx.saved_tensors, ctx.branch_tensors
    branches = list(saved[:count])
    poses, intrinsics, image, alpha, frames, records, lists = saved[count : count + 7]
    v_image = torch.zeros_like(image) if v_image is None else v_image
    v_alpha = torch.zeros_like(alpha) if v_alpha is None else v_alpha
    results = draw_backward_op(
        branches, poses, intrinsics, saved[-1] if ctx.has_background else None, ctx.units, ctx.coverage,
        image, alpha, frames, records, lists, v_image, v_alpha, ctx.grad_sink is not None,
    )  # fmt: skip
    if ctx.grad_sink is not None:
        ctx.grad_sink.add_(results[-1].to(ctx.grad_sink.dtype))
    v_background = results[count + 2] if ctx.has_background else None
    return results[:count], results[count], results[count + 1], v_background, None, None, None, None, None, None


draw_op.register_autograd(_draw_autograd, setup_context=_draw_context)


# ------------------------------------------------------------------------------------------ view-dependent colours


@torch.library.custom_op("avatar::sh_colors", mutates_args=(), device_types="cpu")
def sh_colors_op(sh: Tensor, means: Tensor, skin: Tensor, poses: Tensor) -> Tensor:
    """Colours of every frame."""
    return native.sh_colors([t.contiguous() for t in (sh, means, skin, poses)])


@sh_colors_op.register_kernel("cuda")
def _(sh, means, skin, poses):
    return cuda.sh_colors(cuda.library(), [t.contiguous() for t in (sh, means, skin, poses)])


@sh_colors_op.register_fake
def _(sh, means, skin, poses):
    return means.new_empty(*means.shape[:2], sh.shape[2])


@torch.library.custom_op("avatar::sh_colors_backward", mutates_args=(), device_types="cpu")
def sh_colors_backward_op(sh: Tensor, means: Tensor, skin: Tensor, poses: Tensor, v_colors: Tensor) -> list[Tensor]:
    """Gradients of the first four arguments."""
    return native.sh_colors_backward([t.contiguous() for t in (sh, means, skin, poses)], v_colors.contiguous())


@sh_colors_backward_op.register_kernel("cuda")
def _(sh, means, skin, poses, v_colors):
    scene = [t.contiguous() for t in (sh, means, skin, poses)]
    return cuda.sh_colors_backward(cuda.library(), scene, v_colors.contiguous())


@sh_colors_backward_op.register_fake
def _(sh, means, skin, poses, v_colors):
    return [t.new_empty(t.shape) for t in (sh, means, skin, poses)]


def _sh_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _sh_autograd(ctx, v_colors):
    return tuple(sh_colors_backward_op(*ctx.saved_tensors, v_colors))


sh_colors_op.register_autograd(_sh_autograd, setup_context=_sh_context)


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


@l1_ssim_op.register_kernel("cuda")
def _(image, target, weights, with_gradient):
    out, v_ssim_image = cuda.l1_ssim(
        cuda.library(), image.contiguous(), target.contiguous(), weights.contiguous(), with_gradient
    )
    return out[0].clone(), out[1].clone(), out[2].clone(), v_ssim_image


@torch.library.custom_op("avatar::l1_ssim_backward", mutates_args=(), device_types="cpu")
def l1_ssim_backward_op(
    image: Tensor, target: Tensor, weights: Tensor, total: Tensor, v_ssim_image: Tensor, v_l1: Tensor, v_ssim: Tensor
) -> Tensor:
    """d loss / d image, from the gradients of the two scalars."""
    image, target, weights = image.contiguous(), target.contiguous(), weights.contiguous()
    scale = 1.0 / total.item()
    return native.l1_ssim_backward(image, target, weights, v_ssim_image, v_l1.item() * scale, v_ssim.item() * scale)


@l1_ssim_backward_op.register_kernel("cuda")
def _(image, target, weights, total, v_ssim_image, v_l1, v_ssim):
    images = [t.contiguous() for t in (image, target, weights)]
    return cuda.l1_ssim_backward(cuda.library(), images, total, v_ssim_image, v_l1.contiguous(), v_ssim.contiguous())


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
