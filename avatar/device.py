"""Which device a fit runs on."""

from __future__ import annotations

import platform

import torch

from avatar.errors import UserError


def resolve_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`; `auto` takes a GPU that PyTorch can use.

    Raises:
        UserError: another name, or CUDA where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"There is no device '{name}'; choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device is available to PyTorch here; use --device cpu, or see 'avatar doctor'.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def describe_device(device: torch.device) -> str:
    """The device in words, for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
