"""The one module that touches the compiled extension ``avatar._raster``.

Loads it lazily, explains a failure once, and turns tensors into addresses. Callers pass contiguous CPU tensors of one
floating dtype (float32 or float64); `avatar.raster.ops` sees to that.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType

import torch
from torch import Tensor

from avatar.errors import UserError, one_line
from avatar.raster import cuda

DTYPES = {torch.float32: "32", torch.float64: "64"}
MAX_SIDE_PX = 32_768
HOW_TO_BUILD = "build it with `pip install .` (needs a C++17 compiler), or use backend='reference', which is slow"


@functools.lru_cache(maxsize=1)
def _load() -> tuple[ModuleType | None, str]:
    """The extension, or None and why it could not be loaded."""
    try:
        module = importlib.import_module("avatar._raster")
        module.level32()  # an AVATAR_SIMD that cannot run is reported here, not in the middle of a fit
        return module, ""
    except (ImportError, RuntimeError) as error:
        return None, one_line(error)


def unavailable() -> str:
    """Why the native rasterizer cannot be used, or an empty string when it can."""
    return _load()[1]


def module() -> ModuleType:
    """The extension.

    Raises:
        UserError: it is not built or does not load on this machine.
    """
    extension, why = _load()
    if extension is None:
        raise UserError(f"The native rasterizer is not available ({why}); {HOW_TO_BUILD}.")
    return extension


def usable(tensor: Tensor) -> bool:
    """Whether `backend="auto"` takes the native code for tensors like this one; warns once when it is missing."""
    if not supports(tensor):
        return False
    why = cuda.unavailable() if tensor.is_cuda else unavailable()
    if why:
        _warn_once(tensor.device.type, why)
    return not why


def supports(tensor: Tensor) -> bool:
    """Whether the native code, if it is there, works on tensors of this kind: float32, on the CPU also float64."""
    return tensor.dtype in DTYPES if tensor.device.type == "cpu" else tensor.is_cuda and tensor.dtype == torch.float32


@functools.lru_cache(maxsize=2)
def _warn_once(device: str, why: str) -> None:
    warnings.warn(
        f"The native rasterizer for {device} tensors is not available ({why}): using the PyTorch twin, which is far "
        "slower; `pip install .` builds it.",
        stacklevel=4,
    )


def simd_level() -> str:
    """Instruction set the float32 code runs on: 'avx512', 'avx2' or 'baseline'."""
    return module().level32()


def _function(name: str, like: Tensor):
    return getattr(module(), name + DTYPES[like.dtype])


def _scene(scene: list[Tensor], background: Tensor | None, width: int, height: int) -> tuple[list[int], list[int]]:
    """Addresses and sizes of a scene as the extension takes them."""
    means, colors = scene[0], scene[4]
    addresses = [t.data_ptr() for t in scene] + [0 if background is None else background.data_ptr()]
    under = 0 if background is None else background.shape[-1]
    return addresses, [means.shape[0], means.shape[1], colors.shape[2], width, height, under]


def forward(
    scene: list[Tensor], layers: Tensor, width: int, height: int, background: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image, alpha, and the two int32 buffers that `backward` needs.

    `scene`: means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics as in `avatar.raster.rasterize`.
    `background`: (H, W, up to C) under the first channels of every image.
    """
    means, colors = scene[0], scene[4]
    batch, splats, channels = means.shape[0], means.shape[1], colors.shape[2]
    words = means.element_size() // 4
    records = torch.empty(batch * splats * module().record_stride(channels) * words, dtype=torch.int32)
    image = means.new_empty(batch, height, width, channels)
    alpha = means.new_empty(batch, height, width)
    step = _function("Forward", means)(
        *_scene(scene, background, width, height),
        layers.data_ptr(),
        records.data_ptr(),
        torch.get_num_threads(),
    )
    lists = torch.empty(step.list_size, dtype=torch.int32)
    step.blend(lists.data_ptr(), image.data_ptr(), alpha.data_ptr())
    return image, alpha, records, lists


def backward(
    scene: list[Tensor],
    images: list[Tensor],
    records: Tensor,
    lists: Tensor,
    width: int,
    height: int,
    with_sink: bool,
    background: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of the eight tensors of `scene`, the increment of the sink, (N, 2) or empty, and of the background.

    `images`: image, alpha as returned by `forward`, and their gradients.
    """
    means = scene[0]
    gradients = [torch.empty_like(t) for t in scene]
    sink = means.new_empty(means.shape[1] if with_sink else 0, 2)
    v_background = means.new_empty(0) if background is None else torch.empty_like(background)
    addresses = [t.data_ptr() for t in gradients] + [v_background.data_ptr() if background is not None else 0]
    addresses.append(sink.data_ptr() if with_sink else 0)
    _function("backward", means)(
        *_scene(scene, background, width, height),
        records.data_ptr(),
        lists.data_ptr(),
        [t.data_ptr() for t in images],
        addresses,
        torch.get_num_threads(),
    )
    return [*gradients, sink, v_background]


# ------------------------------------------------------------------------------------------------ motion bases

PER_BRANCH = 8
"""Tensors of a branch: means, quats, log_scales, opacity_logits, colors, skin_logits, bases, weights."""


def animate(branches: list[list[Tensor]], units: list[float], coverage: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """The Gaussians of every frame: one buffer, its parts (means to skin as `forward` takes them), and their layers."""
    means, weights = branches[0][0], branches[0][7]
    batch, splats, channels = weights.shape[0], sum(b[0].shape[0] for b in branches), 3 + coverage
    buffer = means.new_empty(splats * (batch * (11 + channels) + 1))
    parts = frame_parts(buffer, batch, splats, channels)
    layers = torch.empty(splats, dtype=torch.int32)
    scale = torch.tensor(units, dtype=means.dtype)
    first = 0
    for layer, branch in enumerate(branches):
        _function("animate", means)(
            [t.data_ptr() for t in branch],
            [branch[0].shape[0], branch[6].shape[0], first],
            scale.data_ptr(),
            [batch, splats, channels, layer],
            [t.data_ptr() for t in parts],
            layers.data_ptr(),
            torch.get_num_threads(),
        )
        first += branch[0].shape[0]
    return buffer, parts, layers


def frame_parts(buffer: Tensor, batch: int, splats: int, channels: int) -> list[Tensor]:
    """Means, quats, log_scales, opacity_logits, colors (B, N, .) and skin (N,) in the buffer of `animate`."""
    shapes = [(batch, splats, 3), (batch, splats, 4), (batch, splats, 3), (batch, splats), (batch, splats, channels)]
    sizes = [batch * splats * width for width in (3, 4, 3, 1, channels)] + [splats]
    pieces = buffer.split(sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, [*shapes, (splats,)], strict=True)]


def animate_backward(branches: list[list[Tensor]], units: list[float], v_parts: list[Tensor]) -> list[list[Tensor]]:
    """Gradients of every branch's tensors, from those of the parts that `animate` made."""
    batch, splats, channels = v_parts[4].shape
    results, first, scale = [], 0, torch.tensor(units, dtype=v_parts[0].dtype)
    for branch in branches:
        gradients = [torch.empty_like(t) for t in branch]
        _function("animate_backward", scale)(
            [t.data_ptr() for t in branch],
            [branch[0].shape[0], branch[6].shape[0], first],
            scale.data_ptr(),
            [batch, splats, channels],
            [t.data_ptr() for t in v_parts],
            [t.data_ptr() for t in gradients],
            torch.get_num_threads(),
        )
        results.append(gradients)
        first += branch[0].shape[0]
    return results


# ------------------------------------------------------------------------------------------ view-dependent colours


def sh_colors(scene: list[Tensor]) -> Tensor:
    """Colours (B, N, C). `scene`: sh, means, skin, poses."""
    sh, means = scene[0], scene[1]
    colors = means.new_empty(*means.shape[:2], sh.shape[2])
    sizes = [*means.shape[:2], sh.shape[1], sh.shape[2]]
    _function("sh_colors", means)([t.data_ptr() for t in scene], sizes, colors.data_ptr(), torch.get_num_threads())
    return colors


def sh_colors_backward(scene: list[Tensor], v_colors: Tensor) -> list[Tensor]:
    """Gradients of the four tensors of `scene`."""
    sh, means = scene[0], scene[1]
    gradients = [torch.empty_like(t) for t in scene]
    _function("sh_colors_backward", means)(
        [t.data_ptr() for t in scene],
        [*means.shape[:2], sh.shape[1], sh.shape[2]],
        v_colors.data_ptr(),
        [t.data_ptr() for t in gradients],
        torch.get_num_threads(),
    )
    return gradients


# ------------------------------------------------------------------------------------------------ image loss


def l1_ssim(image: Tensor, target: Tensor, weights: Tensor, with_gradient: bool) -> tuple[float, float, Tensor]:
    """Weighted sums of |image - target| and SSIM, and the latter's gradient in the image (empty when not asked)."""
    batch, height, width, channels = image.shape
    v_image = torch.empty_like(image) if with_gradient else image.new_empty(0)
    l1, ssim = _function("l1_ssim", image)(
        image.data_ptr(),
        target.data_ptr(),
        weights.data_ptr(),
        [batch, height, width, channels],
        v_image.data_ptr() if with_gradient else 0,
        torch.get_num_threads(),
    )
    return l1, ssim, v_image


def l1_ssim_backward(
    image: Tensor, target: Tensor, weights: Tensor, v_ssim_image: Tensor, v_l1: float, v_ssim: float
) -> Tensor:
    """v_l1 * weights * sign(image - target) + v_ssim * v_ssim_image."""
    v_image = torch.empty_like(image)
    _function("l1_ssim_backward", image)(
        image.data_ptr(),
        target.data_ptr(),
        weights.data_ptr(),
        v_ssim_image.data_ptr(),
        weights.numel(),
        image.shape[-1],
        v_l1,
        v_ssim,
        v_image.data_ptr(),
        torch.get_num_threads(),
    )
    return v_image
