"""Gaussians to pixels and pixels to a loss, differentiable, with interchangeable backends.

``rasterize`` and ``l1_ssim`` are the whole public surface. ``backend="auto"`` takes the native code where it is
built and the tensors are on the CPU, and otherwise the PyTorch twin (same numbers, much slower), with one warning.
"""

from __future__ import annotations

from avatar.raster.ops import l1_ssim, rasterize

__all__ = ["l1_ssim", "rasterize"]
