"""Public functions of the rasterizer: they check their arguments and choose between operator and PyTorch twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar.errors import UserError
from avatar.raster import cuda, gsplat_backend, native, reference
from avatar.raster.operators import draw_op, l1_ssim_op, rasterize_op, sh_colors_op
from avatar.raster.reference import MovingGaussians

BACKENDS: Final = ("auto", "native", "reference", "gsplat")
MAX_CHANNELS: Final = 8


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
    backend: str = "auto",
    grad_sink: Float[Tensor, "N 2"] | None = None,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W"]]:
    """Render N Gaussians into B images; differentiable in everything but `layers`.

    Args:
        means: (B, N, 3) deformed positions in canonical (head) space, cm.
        quats: (B, N, 4) rotations wxyz, any length.
        log_scales: (B, N, 3) natural logarithm of the standard deviations in cm; used within -20..8.
        opacity_logits: (B, N) opacity before the sigmoid.
        colors: (B, N, C) channel values, C in 1..8, any range.
        skin: (N,) weight of pose 0 (head) in 0..1; pose 1 (torso) has the rest.
        layers: (N,) compositing layer, 0 in front; a layer hides all later ones wherever it is opaque.
        poses: (B, 2, 3, 4) camera_from_head and camera_from_torso, blended linearly per Gaussian.
        intrinsics: (4,) fx, fy, cx, cy in px; pixel centres at +0.5.
        width: image width, px.
        height: image height, px.
        backend: "auto", "native", "reference", or "gsplat" (needs that package and a GPU; see `gsplat_backend`).
        grad_sink: (N, 2) tensor that backward adds to, in place: |d loss / d mean2d| summed over images (px units), and
            the number of images in which the Gaussian may touch a pixel. For density control; costs nothing when None.

    Returns:
        image: (B, height, width, C) premultiplied by alpha, without backdrop.
        alpha: (B, height, width) in 0..1. The backdrop is the caller's: image + (1 - alpha) * backdrop.

    Raises:
        UserError: unknown backend, or backend="native" where it cannot run.
        ValueError: shapes, sizes or dtypes that do not fit together.
    """
    scene = [means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics]
    _check_scene(scene, layers, width, height, grad_sink)
    if not _use_native(backend, means):
        other = gsplat_backend.rasterize if backend == "gsplat" else reference.rasterize
        return other(
            means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics, width, height, grad_sink
        )
    image, alpha, _, _ = rasterize_op(*scene, layers.to(torch.int32), grad_sink, width, height)
    return image, alpha


def draw(
    branches: Sequence[MovingGaussians],
    poses: Float[Tensor, "B 2 3 4"],
    intrinsics: Float[Tensor, " 4"],
    background: Float[Tensor, "H W 3"] | None,
    units: Sequence[float],
    width: int,
    height: int,
    coverage: int = 0,
    backend: str = "auto",
    grad_sink: Float[Tensor, "N 2"] | None = None,
) -> tuple[Float[Tensor, "B H W C"], Float[Tensor, "B H W"]]:
    """From canonical Gaussians and their motion to finished images: blend the bases, skin, project, draw, composite.

    Differentiable in everything; one operator, so that nothing between the parameters and the pixels passes through
    Python. Layer i of the composite is branch i, the first in front.

    Args:
        branches: 1 to 4 sets of Gaussians; N is their number in all.
        poses: (B, 2, 3, 4) camera_from_head and camera_from_torso.
        intrinsics: (4,) fx, fy, cx, cy in px.
        background: (H, W, 3) picture behind everything; None leaves the images premultiplied by alpha.
        units: 14 factors of the columns of all bases.
        width: image width, px.
        height: image height, px.
        coverage: 0..5 further channels: how much of the pixel shows branch 0, 1, ... without background.
        backend: as in `rasterize`.
        grad_sink: as in `rasterize`.

    Returns:
        image: (B, H, W, 3 + coverage). alpha: (B, H, W).

    Raises:
        UserError: unknown backend, or one that cannot run here.
        ValueError: shapes or dtypes that do not fit together.
    """
    # half precision is a way to store bases on a GPU; the CPU kernels read floats
    branches = [b if b.bases.is_cuda else b._replace(bases=b.bases.to(b.weights.dtype)) for b in branches]
    _check_branches(branches, poses, intrinsics, background, units, width, height, coverage, grad_sink)
    if not _use_native(backend, poses):
        other = gsplat_backend.rasterize if backend == "gsplat" else reference.rasterize
        scale = torch.as_tensor(units, dtype=poses.dtype, device=poses.device)
        return reference.draw(
            branches, poses, intrinsics, background, scale, width, height, coverage, grad_sink, rasterizer=other
        )
    tensors = [t for branch in branches for t in branch]
    keep = torch.is_grad_enabled() and any(
        t.requires_grad for t in (*tensors, poses, intrinsics, *([] if background is None else [background]))
    )
    image, alpha, *_ = draw_op(
        tensors, poses, intrinsics, background, list(units), grad_sink, width, height, coverage, keep
    )
    return image, alpha


def sh_colors(
    sh: Float[Tensor, "N K C"],
    means: Float[Tensor, "B N 3"],
    skin: Float[Tensor, " N"],
    poses: Float[Tensor, "B 2 3 4"],
    backend: str = "auto",
) -> Float[Tensor, "B N C"]:
    """View-dependent colours for `rasterize`, from spherical harmonics of degree 0 (K = 1) or 1 (K = 4).

    Differentiable. In the order and with the signs of 3DGS, without its offset of 0.5 and its clamp. The direction
    is the one from which the camera sees the Gaussian, turned into canonical space by its blended pose.

    Args:
        sh: coefficients, C in 1..8 channels.
        means: positions in canonical space, cm.
        skin: weight of pose 0 in 0..1, as in `rasterize`.
        poses: camera_from_head and camera_from_torso.
        backend: "auto", "native" or "reference".

    Raises:
        ValueError: shapes or dtypes that do not fit together.
    """
    batch, splats = means.shape[:2]
    wanted = {"means": (batch, splats, 3), "skin": (splats,), "poses": (batch, 2, 3, 4)}
    for name, tensor in (("means", means), ("skin", skin), ("poses", poses)):
        if tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must have shape {wanted[name]}, got {tuple(tensor.shape)}.")
    if sh.ndim != 3 or sh.shape[0] != splats or sh.shape[1] not in (1, 4) or not 1 <= sh.shape[2] <= MAX_CHANNELS:
        raise ValueError(f"sh must have shape ({splats}, 1 or 4, 1 to {MAX_CHANNELS}), got {tuple(sh.shape)}.")
    _check_alike({"sh": sh, "means": means, "skin": skin, "poses": poses})
    if not _use_native(backend, means):
        return reference.sh_colors(sh, means, skin, poses)
    return sh_colors_op(sh, means, skin, poses)


def l1_ssim(
    image: Float[Tensor, "B H W C"],
    target: Float[Tensor, "B H W C"],
    weights: Float[Tensor, "B H W"],
    backend: str = "auto",
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Weighted mean absolute error and weighted mean SSIM; differentiable in `image` only.

    SSIM as in 3DGS: 11x11 Gaussian window of standard deviation 1.5 px, zero padding, constants for the range 0..1.

    Args:
        image: (B, H, W, C) rendered picture.
        target: (B, H, W, C) true picture.
        weights: (B, H, W) weight of each pixel, not negative; means are over weights * channels. All zero gives 0, 0.
        backend: "auto", "native" or "reference".

    Returns:
        l1, ssim: two scalars; a loss is e.g. 0.8 * l1 + 0.2 * (1 - ssim).

    Raises:
        UserError: unknown backend, or backend="native" where it cannot run.
        ValueError: shapes or dtypes that do not fit together.
    """
    if image.ndim != 4 or target.shape != image.shape or weights.shape != image.shape[:3]:
        raise ValueError(
            f"l1_ssim wants image and target (B, H, W, C) and weights (B, H, W), got {tuple(image.shape)}, "
            f"{tuple(target.shape)} and {tuple(weights.shape)}."
        )
    if not 1 <= image.shape[-1] <= MAX_CHANNELS:
        raise ValueError(f"l1_ssim works on 1 to {MAX_CHANNELS} channels, got {image.shape[-1]}.")
    _check_alike({"image": image, "target": target, "weights": weights})
    target, weights = target.detach(), weights.detach()
    if not _use_native(backend, image):
        return reference.l1_ssim(image, target, weights)
    with_gradient = torch.is_grad_enabled() and image.requires_grad
    l1, ssim, _, _ = l1_ssim_op(image, target, weights, with_gradient)
    return l1, ssim


def check_backend(backend: str, device: torch.device) -> None:
    """Whether a fit can use this backend on this device, before hours are spent.

    Raises:
        UserError: it is unknown or cannot run here.
    """
    _use_native(backend, torch.empty(0, device=device))
    if backend == "gsplat" and (why := gsplat_backend.unavailable()):
        raise UserError(f"The gsplat rasterizer cannot run: {why}.")
    if backend == "gsplat" and device.type != "cuda":
        raise UserError("The gsplat rasterizer works on a GPU; add --device cuda.")


def _use_native(backend: str, tensor: Tensor) -> bool:
    if backend not in BACKENDS:
        raise UserError(f"Unknown rasterizer backend {backend!r}; use one of: {', '.join(BACKENDS)}.")
    if backend in ("reference", "gsplat"):
        return False
    if backend == "auto":
        return native.usable(tensor)
    if not native.supports(tensor):
        raise UserError(
            f"The native rasterizer works on float32 tensors, and on the CPU on float64 too, not on {tensor.dtype} on "
            f"{tensor.device}; use backend='auto'."
        )
    if tensor.is_cuda and (why := cuda.unavailable()):
        raise UserError(f"The CUDA rasterizer is not available ({why}); use backend='reference', which is slow.")
    if not tensor.is_cuda:
        native.module()
    return True


def _check_alike(tensors: dict[str, Tensor]) -> None:
    name, first = next(iter(tensors.items()))
    for other, tensor in tensors.items():
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{other} is {tensor.dtype} on {tensor.device}, but {name} is {first.dtype} on {first.device}."
            )


def _check_branches(
    branches: Sequence[MovingGaussians],
    poses: Tensor,
    intrinsics: Tensor,
    background: Tensor | None,
    units: Sequence[float],
    width: int,
    height: int,
    coverage: int,
    grad_sink: Tensor | None,
) -> None:
    if not 1 <= len(branches) <= cuda.MAX_BRANCHES:
        raise ValueError(f"1 to {cuda.MAX_BRANCHES} branches can be drawn, got {len(branches)}.")
    batch, named = poses.shape[0], {"poses": poses, "intrinsics": intrinsics}
    wanted = {"poses": (batch, 2, 3, 4), "intrinsics": (4,)}
    for i, branch in enumerate(branches):
        n, k = branch.means.shape[0], branch.bases.shape[0]
        shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, 3), (n,), (k, n, sum(reference.BASIS_WIDTHS)), (batch, k))
        for name, tensor, shape in zip(branch._fields, branch, shapes, strict=True):
            named[f"{name} of branch {i}"] = tensor
            wanted[f"{name} of branch {i}"] = shape
    if background is not None:
        named["background"], wanted["background"] = background, (height, width, 3)
    for name, shape in wanted.items():
        if tuple(named[name].shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(named[name].shape)}.")
    _check_alike({name: t for name, t in named.items() if t.dtype != torch.float16 or t.requires_grad})
    if len(units) != sum(reference.BASIS_WIDTHS):
        raise ValueError(f"units are {sum(reference.BASIS_WIDTHS)} numbers, got {len(units)}.")
    if not 0 <= coverage <= MAX_CHANNELS - 3:
        raise ValueError(f"coverage is 0 to {MAX_CHANNELS - 3} channels, got {coverage}.")
    splats = sum(branch.means.shape[0] for branch in branches)
    _check_image(width, height, splats, grad_sink)


def _check_image(width: int, height: int, splats: int, grad_sink: Tensor | None) -> None:
    if not (1 <= width <= native.MAX_SIDE_PX and 1 <= height <= native.MAX_SIDE_PX):
        raise ValueError(f"The image must be 1 to {native.MAX_SIDE_PX} px wide and high, got {width} x {height}.")
    if grad_sink is not None and tuple(grad_sink.shape) != (splats, 2):
        raise ValueError(f"grad_sink must have shape {(splats, 2)}, got {tuple(grad_sink.shape)}.")


def _check_scene(scene: list[Tensor], layers: Tensor, width: int, height: int, grad_sink: Tensor | None) -> None:
    means, colors = scene[0], scene[4]
    if means.ndim != 3 or colors.ndim != 3:
        raise ValueError(f"means and colors have 3 dimensions (B, N, .), got {means.ndim} and {colors.ndim}.")
    batch, splats = means.shape[:2]
    names = ("means", "quats", "log_scales", "opacity_logits", "colors", "skin", "poses", "intrinsics")
    shapes = (
        (batch, splats, 3), (batch, splats, 4), (batch, splats, 3), (batch, splats), (batch, splats, colors.shape[2]),
        (splats,), (batch, 2, 3, 4), (4,),
    )  # fmt: skip
    for name, tensor, shape in zip(names, scene, shapes, strict=True):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}.")
    _check_alike(dict(zip(names, scene, strict=True)))
    if tuple(layers.shape) != (splats,) or layers.is_floating_point():
        raise ValueError(f"layers must hold {splats} integers, got {layers.dtype} {tuple(layers.shape)}.")
    if not 1 <= colors.shape[2] <= MAX_CHANNELS:
        raise ValueError(f"colors must have 1 to {MAX_CHANNELS} channels, got {colors.shape[2]}.")
    _check_image(width, height, splats, grad_sink)
