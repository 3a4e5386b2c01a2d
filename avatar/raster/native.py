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
    if tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
        return False
    if unavailable():
        _warn_once()
        return False
    return True


@functools.lru_cache(maxsize=1)
def _warn_once() -> None:
    warnings.warn(
        f"The native rasterizer is not available ({unavailable()}): using the PyTorch twin, which is far slower; "
        "`pip install .` builds it.",
        stacklevel=4,
    )


def simd_level() -> str:
    """Instruction set the float32 code runs on: 'avx512', 'avx2' or 'baseline'."""
    return module().level32()


def _function(name: str, like: Tensor):
    return getattr(module(), name + DTYPES[like.dtype])


def _sizes(means: Tensor, colors: Tensor, width: int, height: int) -> list[int]:
    return [means.shape[0], means.shape[1], colors.shape[2], width, height]


def forward(scene: list[Tensor], layers: Tensor, width: int, height: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image, alpha, and the two int32 buffers that `backward` needs.

    `scene`: means, quats, log_scales, opacity_logits, colors, skin, poses, intrinsics as in `avatar.raster.rasterize`.
    """
    means, colors = scene[0], scene[4]
    batch, splats, channels = means.shape[0], means.shape[1], colors.shape[2]
    words = means.element_size() // 4
    records = torch.empty(batch * splats * module().record_stride(channels) * words, dtype=torch.int32)
    image = means.new_empty(batch, height, width, channels)
    alpha = means.new_empty(batch, height, width)
    step = _function("Forward", means)(
        [t.data_ptr() for t in scene],
        _sizes(means, colors, width, height),
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
) -> list[Tensor]:
    """Gradients of the eight tensors of `scene`, then the increment of the sink, (N, 2) or empty.

    `images`: image, alpha as returned by `forward`, and their gradients.
    """
    means, colors = scene[0], scene[4]
    gradients = [torch.empty_like(t) for t in scene]
    sink = means.new_empty(means.shape[1] if with_sink else 0, 2)
    addresses = [t.data_ptr() for t in gradients] + [sink.data_ptr() if with_sink else 0]
    _function("backward", means)(
        [t.data_ptr() for t in scene],
        _sizes(means, colors, width, height),
        records.data_ptr(),
        lists.data_ptr(),
        [t.data_ptr() for t in images],
        addresses,
        torch.get_num_threads(),
    )
    return [*gradients, sink]


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
