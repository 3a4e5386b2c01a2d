"""Fused L1 + SSIM against its twin."""

from __future__ import annotations

import pytest
import torch
from raster_scenes import relative_error

from avatar.raster import l1_ssim, native

pytestmark = pytest.mark.skipif(bool(native.unavailable()), reason=f"no native rasterizer: {native.unavailable()}")
LEVELS = native.module().levels() if not native.unavailable() else []

# batch, height, width, channels: bands are 32 rows, vectors 8 or 16 numbers, the window 11
SIZES = [(1, 64, 48, 3), (2, 33, 37, 3), (1, 1, 1, 3), (1, 5, 3, 1), (1, 70, 5, 4), (2, 97, 64, 3), (1, 11, 100, 2)]


def pair(batch: int, height: int, width: int, channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(height * width)
    image = torch.rand(batch, height, width, channels, generator=g, dtype=torch.float64)
    target = (image + 0.2 * torch.randn(image.shape, generator=g, dtype=torch.float64)).clamp(0, 1)
    return image, target, torch.rand(batch, height, width, generator=g, dtype=torch.float64)


def loss_and_gradient(image, target, weights, backend: str, dtype: torch.dtype):
    leaf = image.to(dtype).clone().requires_grad_()
    l1, ssim = l1_ssim(leaf, target.to(dtype), weights.to(dtype), backend=backend)
    (0.8 * l1 - 0.3 * ssim).backward()
    return float(l1.detach()), float(ssim.detach()), leaf.grad


@pytest.mark.parametrize("size", SIZES)
def test_double_precision_equals_the_twin(size) -> None:
    expected = loss_and_gradient(*pair(*size), "reference", torch.float64)
    actual = loss_and_gradient(*pair(*size), "native", torch.float64)
    assert actual[0] == pytest.approx(expected[0], rel=1e-12)
    assert actual[1] == pytest.approx(expected[1], rel=1e-12)
    assert relative_error(actual[2], expected[2]) < 1e-12


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", SIZES)
def test_single_precision_agrees_with_the_double_twin(size, level, monkeypatch) -> None:
    monkeypatch.setenv("AVATAR_SIMD", level)
    expected = loss_and_gradient(*pair(*size), "reference", torch.float64)
    actual = loss_and_gradient(*pair(*size), "native", torch.float32)
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual[1] == pytest.approx(expected[1], rel=1e-5)
    assert relative_error(actual[2], expected[2]) < 1e-4  # worst seen 3e-6


def test_value_without_gradient_and_zero_weights() -> None:
    image, target, weights = (t.float() for t in pair(1, 40, 30, 3))
    plain = l1_ssim(image, target, weights, backend="native")
    tracked = l1_ssim(image.clone().requires_grad_(), target, weights, backend="native")
    assert not plain[0].requires_grad
    for a, b in zip(plain, tracked, strict=True):
        assert torch.equal(a, b.detach())
    leaf = image.clone().requires_grad_()
    l1, ssim = l1_ssim(leaf, target, torch.zeros_like(weights), backend="native")
    assert float(l1.detach()) == 0 and float(ssim.detach()) == 0
    (l1 + ssim).backward()
    assert leaf.grad is not None and not leaf.grad.any()


def test_only_one_of_the_two_scalars_may_be_used() -> None:
    image, target, weights = pair(1, 20, 20, 3)
    for pick in (0, 1):
        grads = []
        for backend in ("native", "reference"):
            leaf = image.clone().requires_grad_()
            l1_ssim(leaf, target, weights, backend=backend)[pick].backward()
            grads.append(leaf.grad)
        torch.testing.assert_close(*grads)


def test_same_bits_for_any_thread_count() -> None:
    image, target, weights = (t.float() for t in pair(2, 97, 64, 3))
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            runs.append(loss_and_gradient(image, target, weights, "native", torch.float32))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert run[:2] == runs[0][:2]
        assert torch.equal(run[2], runs[0][2])
