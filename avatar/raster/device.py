"""Which device a fit runs on."""

from __future__ import annotations

import platform

import torch

from avatar.errors import UserError
from avatar.raster import cuda


def resolve_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`.

    `auto` is a GPU only where the rasterizer has native code for it: on the CPU that code is faster by far than plain
    PyTorch on a GPU.

    Raises:
        UserError: another name, or CUDA where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"There is no device '{name}'; choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device is available to PyTorch here; use --device cpu, or see 'avatar doctor'.")
    gpu = name == "cuda" or (name == "auto" and not cuda.unavailable())
    return torch.device("cuda" if gpu else "cpu")


def describe_device(device: torch.device) -> str:
    """The device in words, for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
