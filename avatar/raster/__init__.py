"""Gaussians to pixels and pixels to a loss, differentiable, with interchangeable backends.

``draw`` (canonical Gaussians and their motion to finished images), ``rasterize`` (Gaussians of every frame to images)
and ``l1_ssim`` are the public surface. ``backend="auto"`` takes the native code, C++ on the CPU and CUDA on a GPU,
where it is built, and otherwise the PyTorch twin (same numbers, much slower), with one warning.
"""

from __future__ import annotations

from avatar.raster.ops import BACKENDS, check_backend, draw, l1_ssim, rasterize, sh_colors
from avatar.raster.reference import MovingGaussians, animate

__all__ = ["BACKENDS", "MovingGaussians", "animate", "check_backend", "draw", "l1_ssim", "rasterize", "sh_colors"]
