"""Times and memory of one backend on one scene."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from avatar.bench.scenes import SceneSize
from avatar.model.gaussians import BASIS_UNITS, Branch
from avatar.raster import draw, l1_ssim, rasterize

SHARES = {"face": (0.6, 20), "mouth": (0.1, 8), "torso": (0.3, 6)}
"""Share of the Gaussians and number of bases of each branch in the training step."""
LEAST_RUNS = 3


@dataclass(frozen=True)
class Figures:
    """One row of the table. None where it was not measured."""

    scene: str
    backend: str
    forward_ms: float | None = None
    backward_ms: float | None = None
    step_ms: float | None = None
    """Animate, project, blend, L1 + SSIM, backward, AdamW."""
    peak_mib: float | None = None
    """Memory that forward and backward take beyond the scene."""
    note: str = ""


def measure(scene: list[Tensor], size: SceneSize, backend: str, device: torch.device, seconds: float) -> Figures:
    """Medians over about `seconds` each."""
    on_device = [t.to(device) for t in scene]
    leaves = [t.requires_grad_() if t.is_floating_point() else t for t in on_device]
    raster = "native" if backend in ("cpu", "cuda") else "reference" if backend == "twin" else "gsplat"

    def forward() -> Tensor:
        means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics = leaves
        image, _ = rasterize(
            means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics, size.size, size.size,
            raster,
        )  # fmt: skip
        return image

    def forward_only() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        forward().sum().backward()
        for t in leaves:
            t.grad = None

    both()  # compiles, allocates, warms caches
    forward_ms = _median_ms(forward_only, device, seconds)
    both_ms = _median_ms(both, device, seconds)
    peak = _peak_mib(both, device)
    step_ms = _median_ms(training_step(size, raster, device), device, seconds)
    return Figures(size.name, backend, forward_ms, max(0.0, both_ms - forward_ms), step_ms, peak)


def training_step(size: SceneSize, raster: str, device: torch.device) -> Callable[[], None]:
    """What one step of a fit does to an avatar of this size, as a function to call again and again."""
    g = torch.Generator().manual_seed(1)
    px = 60.0 / (2.0 * size.size)
    branches, weights = [], []
    for share, bases in SHARES.values():
        count = max(1, round(size.splats * share))
        branch = Branch(count, bases)
        with torch.no_grad():
            branch.means.copy_((torch.rand(count, 3, generator=g) * 2 - 1) * size.size * 0.5**0.5 / 2 * px)
            branch.log_scales.copy_((0.7 + 3.0 * torch.rand(count, 3, generator=g)).mul(px).log())
            branch.colors.copy_(torch.rand(count, 3, generator=g))
            branch.bases.copy_(torch.randn(bases, count, 14, generator=g) * 0.1)
        branches.append(branch.to(device))
        weights.append(torch.randn(size.batch, bases, generator=g).to(device).requires_grad_())
    background = torch.rand(size.size, size.size, 3, generator=g).to(device).requires_grad_()
    target = torch.rand(size.batch, size.size, size.size, 3, generator=g).to(device)
    pixel_weights = torch.ones(size.batch, size.size, size.size, device=device)
    poses = torch.eye(4)[:3].repeat(size.batch, 2, 1, 1)
    poses[..., 2, 3] = 60.0
    poses = poses.to(device).requires_grad_()
    intrinsics = torch.tensor([2.0 * size.size] * 2 + [size.size / 2] * 2, device=device)
    parameters = [p for branch in branches for p in branch.parameters()] + [background, poses, *weights]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, eps=1e-15, weight_decay=0.0, fused=True)

    def step() -> None:
        moving = [branch.moving(w) for branch, w in zip(branches, weights, strict=True)]
        image, _ = draw(moving, poses, intrinsics, background, BASIS_UNITS, size.size, size.size, backend=raster)
        l1, ssim = l1_ssim(image, target, pixel_weights, "auto" if raster == "gsplat" else raster)
        (0.8 * l1 - 0.2 * ssim).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return step


def avatar_fps(path: Path, device: torch.device, seconds: float) -> float:
    """Finished pictures per second of an avatar at its own size, while its mouth and head move."""
    import numpy as np

    from avatar.conventions import BLENDSHAPE_INDEX
    from avatar.model import Avatar

    avatar = Avatar.load(path)
    avatar.model.to(device)
    motion = avatar.rest_motion(np.arange(64) / 25.0)
    swing = np.sin(np.arange(64) / 5.0)
    motion.coefficients[:, BLENDSHAPE_INDEX["jawOpen"]] += 0.2 * swing.astype(np.float32)
    motion.camera_from_head[:, 0, 3] += 0.5 * swing
    for _ in avatar.frames(motion):
        pass
    drawn, start = 0, time.perf_counter()
    while time.perf_counter() - start < max(seconds, 1.0):
        drawn += sum(1 for _ in avatar.frames(motion))
    return drawn / (time.perf_counter() - start)


def _median_ms(run: Callable[[], None], device: torch.device, seconds: float) -> float:
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - started < seconds:
        _wait(device)
        before = time.perf_counter()
        run()
        _wait(device)
        times.append((time.perf_counter() - before) * 1e3)
        if len(times) == 1 and times[0] > 1e4:
            break  # once is enough of what takes ten seconds
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(run: Callable[[], None], device: torch.device) -> float | None:
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc keeps what the runs before have freed
    before = _resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    except OSError:
        return None
    run()
    peak = _resident("VmHWM")
    return None if before is None or peak is None else max(0.0, peak - before)


def _resident(field: str) -> float | None:
    """MiB of this process, from Linux's own bookkeeping."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), None)
