"""Time the native rasterizer beside a straightforward C++ one and the PyTorch twin, in one run on one scene.

    python scripts/bench_raster.py [--splats 30000] [--size 512] [--threads 2] [--repeats 20] [--twin] [--json FILE]

The scene is seeded: Gaussians with standard deviations of 0.7 to 3.7 px, spread over half of the image. The yardstick
(scripts/bench_raster_baseline.cpp) is compiled here with -O3 -march=native -ffast-math -fopenmp. Medians are printed;
the two are measured alternately, so that a busy machine slows both. With --threads 1 the figures are CPU time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avatar.bench.scenes import make_scene
from avatar.raster import l1_ssim, native, rasterize
from avatar.raster.operators import rasterize_backward_op, rasterize_op

HERE = Path(__file__).parent


class Baseline:
    """The yardstick, compiled into a temporary folder."""

    def __init__(self, folder: str) -> None:
        library = Path(folder) / "baseline.so"
        flags = ["-std=c++17", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, str(HERE / "bench_raster_baseline.cpp"), "-o", str(library)], check=True)
        self.library = ctypes.CDLL(str(library))

    @staticmethod
    def _array(tensors: list[Tensor]) -> ctypes.Array:
        return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])

    @staticmethod
    def _pointer(tensor: Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    def forward(self, inputs: list[Tensor], size: int) -> tuple[Tensor, Tensor]:
        image, alpha = torch.empty(size, size, 3), torch.empty(size, size)
        n = inputs[0].shape[1]
        self.library.baseline_forward(
            self._array(inputs), n, size, size, self._pointer(image), self._pointer(alpha), torch.get_num_threads()
        )
        return image, alpha

    def backward(self, inputs: list[Tensor], size: int, images: list[Tensor]) -> list[Tensor]:
        out = [torch.zeros_like(t) for t in inputs]
        self.library.baseline_backward(
            self._array(inputs), inputs[0].shape[1], size, size, *[self._pointer(t) for t in images],
            self._array(out), torch.get_num_threads(),
        )  # fmt: skip
        return out


def timed(f: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Wall time in ms and the result. On one thread, CPU time: it does not suffer from other processes."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = f(*args)
    return (clock() - start) * 1e3, result


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def bench_native_and_baseline(scene: list[Tensor], size: int, repeats: int, folder: str) -> dict[str, float]:
    layers = scene[6]
    inputs = scene[:6] + scene[7:]
    g = torch.Generator().manual_seed(1)
    v_image, v_alpha = torch.randn(1, size, size, 3, generator=g), torch.randn(1, size, size, generator=g)
    baseline = Baseline(folder)
    times: dict[str, list[float]] = {"ours forward": [], "ours backward": [], "plain forward": [], "plain backward": []}
    worst = 0.0
    for _ in range(repeats):
        t, forward = timed(rasterize_op, *inputs, layers, None, size, size)
        times["ours forward"].append(t)
        t, ours = timed(rasterize_backward_op, *inputs, *forward, v_image, v_alpha, False)
        times["ours backward"].append(t)
        t, (image, alpha) = timed(baseline.forward, inputs, size)
        times["plain forward"].append(t)
        t, plain = timed(baseline.backward, inputs, size, [image, alpha, v_image, v_alpha])
        times["plain backward"].append(t)
        worst = max([relative(image, forward[0][0])] + [relative(p, o) for p, o in zip(plain, ours[:8], strict=True)])
    result = {name: statistics.median(t) for name, t in times.items()}
    result["largest relative difference"] = worst
    result["ratio"] = (result["plain forward"] + result["plain backward"]) / (
        result["ours forward"] + result["ours backward"]
    )
    return result


def bench_autograd(scene: list[Tensor], size: int, repeats: int, backend: str) -> float:
    """Forward and backward through the public function, ms."""
    leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in scene]

    def step() -> None:
        means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics = leaves
        image, alpha = rasterize(
            means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics, size, size, backend
        )
        torch.autograd.grad(image.sum() + alpha.sum(), [t for t in leaves if t.requires_grad])

    step()
    return statistics.median(timed(step)[0] for _ in range(repeats))


def bench_loss(size: int, repeats: int, backend: str) -> float:
    """L1 + SSIM forward and backward, ms."""
    image = torch.rand(1, size, size, 3, requires_grad=True)
    target, weights = torch.rand(1, size, size, 3), torch.ones(1, size, size)

    def step() -> None:
        l1, ssim = l1_ssim(image, target, weights, backend=backend)
        torch.autograd.grad(0.8 * l1 - 0.2 * ssim, image)

    step()
    return statistics.median(timed(step)[0] for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splats", type=int, default=30_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--twin", action="store_true", help="also time the PyTorch twin (slow)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scene = make_scene(args.splats, args.size)
    rows: dict[str, float | str] = {"instruction set": native.simd_level()}
    with tempfile.TemporaryDirectory() as folder:
        rows |= bench_native_and_baseline(scene, args.size, args.repeats, folder)
    rows["ours through autograd"] = bench_autograd(scene, args.size, args.repeats, "native")
    rows["l1 + ssim"] = bench_loss(args.size, args.repeats, "native")
    rows["l1 + ssim, twin"] = bench_loss(args.size, max(1, args.repeats // 5), "reference")
    if args.twin:
        rows["twin through autograd"] = bench_autograd(scene, args.size, 1, "reference")
    print(f"{args.splats} Gaussians, {args.size} px, {args.threads} threads, median of {args.repeats}, ms")
    for name, value in rows.items():
        print(f"  {name:28s} {value if isinstance(value, str) else format(value, '10.3g')}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
