"""Scenes and comparisons shared by the rasterizer's tests."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.raster import MovingGaussians, draw, rasterize

SCENE_NAMES = ("means", "quats", "log_scales", "opacity_logits", "colors", "skin", "layers", "poses", "intrinsics")


def random_scene(
    batch: int = 1,
    splats: int = 40,
    channels: int = 3,
    size: int = 40,
    seed: int = 0,
    log_scale: float = 0.0,
    spread_cm: float = 4.0,
    layers: int = 3,
    opacity: float = 0.0,
) -> list[Tensor]:
    """Arguments of `rasterize` up to intrinsics, float64; about 3 px per cm times size / 50."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(batch, 2, 1, 1)
    poses[..., 2, 3] = 50.0
    return [
        normal(batch, splats, 3) * torch.tensor([spread_cm, spread_cm, 2.0]),
        normal(batch, splats, 4),
        normal(batch, splats, 3) * 0.4 + log_scale,
        normal(batch, splats) + opacity,
        normal(batch, splats, channels),
        torch.rand(splats, generator=g, dtype=torch.float64),
        torch.randint(0, layers, (splats,), generator=g, dtype=torch.int32),
        poses + 0.02 * normal(batch, 2, 3, 4),
        torch.tensor([3.0 * size, 2.9 * size, size / 2 + 0.3, size / 2 - 0.2], dtype=torch.float64),
    ]


def border_scene() -> list[torch.Tensor]:
    """Centres exactly on tile borders (multiples of 8 and 16 px), on pixel centres, and on the image's border."""
    scene = random_scene(splats=12, size=48, seed=5, log_scale=-0.5)
    focal, depth = 144.0, 50.0
    scene[7] = torch.eye(4, dtype=torch.float64)[:3].repeat(1, 2, 1, 1)
    scene[7][..., 2, 3] = depth
    scene[8] = torch.tensor([focal, focal, 24.0, 24.0], dtype=torch.float64)
    px = torch.tensor([[8, 16], [16, 32], [24, 16], [8.5, 16.5], [32, 32], [0, 0], [48, 48], [0, 24], [24, 48],
                       [15.5, 31.5], [16, 15.5], [40, 16]], dtype=torch.float64)  # fmt: skip
    scene[0][0, :, :2] = (px - 24) * depth / focal
    scene[0][0, :, 2] = torch.linspace(-1, 1, 12)
    scene[0][0, :, :2] *= 1 + scene[0][0, :, 2:] / depth
    return scene


def far_off_scene() -> list[torch.Tensor]:
    """Behind the camera, on the camera plane, at the near plane, far off to the side, and a few ordinary ones."""
    scene = random_scene(splats=20, size=40, seed=6)
    scene[0][0, 0, 2] = -200.0
    scene[0][0, 1, 2] = -50.0
    scene[0][0, 2, 2] = -49.6
    scene[0][0, 3, 2] = -48.0
    scene[0][0, 4, 0] = 500.0
    scene[0][0, 5, 1] = -40.0
    scene[2][0, 5] = 3.0  # off-screen, but reaching in: the clamped Jacobian
    scene[0][0, 6, 0] = 40.0
    scene[2][0, 6] = 3.0
    return scene


def degenerate_scene() -> list[torch.Tensor]:
    """Scales from nothing to everything, needles and discs, quaternions of odd length."""
    scene = random_scene(splats=16, size=40, seed=7)
    scene[2][0, 0] = -30.0
    scene[2][0, 1] = -8.0
    scene[2][0, 2] = torch.tensor([1.0, -12.0, -12.0])
    scene[2][0, 3] = torch.tensor([1.0, 1.0, -25.0])
    scene[2][0, 4] = 7.5
    scene[2][0, 5] = 12.0
    scene[1][0, 6] *= 1e-4
    scene[1][0, 7] *= 1e4
    return scene


def opacity_scene() -> list[torch.Tensor]:
    """Logits far beyond both ends, and just around 1/255."""
    scene = random_scene(splats=16, size=40, seed=8, log_scale=0.5)
    scene[3][0, :8] = torch.tensor([-100.0, 100.0, -5.6, -5.4, 20.0, 7.0, -20.0, 6.5])
    return scene


# name: (scene, width, height)
SCENES = {
    "plain": (random_scene(splats=60, size=40), 40, 40),
    "odd size, batch": (random_scene(batch=3, splats=40, size=40, seed=1), 41, 37),
    "tile borders": (border_scene(), 48, 48),
    "off screen, behind": (far_off_scene(), 40, 40),
    "degenerate scales": (degenerate_scene(), 40, 40),
    "opacity limits": (opacity_scene(), 40, 40),
    "one splat": (random_scene(splats=1, size=20, seed=2), 20, 20),
    "one pixel": (random_scene(splats=30, size=1, seed=3, log_scale=2.0), 1, 1),
    "one row": (random_scene(splats=30, size=33, seed=3), 33, 1),
    "nine layers": (random_scene(splats=80, size=40, seed=4, layers=9), 40, 40),
    "opaque stack": (random_scene(splats=400, size=40, seed=9, log_scale=0.8, opacity=3.0), 40, 40),
    "many small": (random_scene(splats=1500, size=64, seed=10, log_scale=-1.2), 64, 64),
    "one channel": (random_scene(splats=40, channels=1, size=40, seed=11), 40, 40),
    "two channels": (random_scene(splats=40, channels=2, size=40, seed=11), 40, 40),
    "four channels": (random_scene(splats=40, channels=4, size=40, seed=11), 40, 40),
    "seven channels": (random_scene(splats=40, channels=7, size=40, seed=11), 40, 40),
    "eight channels": (random_scene(splats=40, channels=8, size=40, seed=11), 40, 40),
}


def render(
    scene: list[Tensor], width: int, height: int, backend: str = "auto", grad_sink: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`rasterize` with the scene as one list."""
    means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics = scene
    return rasterize(
        means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics, width, height,
        backend=backend, grad_sink=grad_sink,
    )  # fmt: skip


def render_with_gradients(
    scene: list[Tensor], width: int, height: int, backend: str, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """image, alpha, the gradient of every input under a fixed random linear loss, and the grad sink."""
    leaves = [t.to(dtype).clone().requires_grad_() if t.is_floating_point() else t for t in scene]
    sink = torch.zeros(leaves[0].shape[1], 2, dtype=dtype)
    image, alpha = render(leaves, width, height, backend, sink)
    v_image, v_alpha = linear_loss_gradients(image, alpha)
    ((image * v_image).sum() + (alpha * v_alpha).sum()).backward()
    out = {"image": image.detach(), "alpha": alpha.detach(), "sink": sink}
    for name, leaf in zip(SCENE_NAMES, leaves, strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None, f"no gradient for {name}"
            out[name] = leaf.grad
    return out


def relative_error(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of b; over 1 where b vanishes."""
    norm = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / (norm if norm > 1e-12 else 1.0)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        assert torch.isfinite(actual[name]).all(), f"{name} is not finite"
        error = relative_error(actual[name], value)
        assert error <= tolerance, f"{name}: relative error {error:.2e} > {tolerance:.0e}"


UNITS = (0.05,) * 7 + (0.1,) * 3 + (0.05,) * 3 + (0.3,)


def moving_scene(
    batch: int = 2,
    counts: tuple[int, ...] = (30, 10, 20),
    bases: tuple[int, ...] = (4, 2, 3),
    width: int = 40,
    height: int = 37,
    seed: int = 0,
) -> tuple[list[MovingGaussians], Tensor, Tensor, Tensor]:
    """Branches, poses, intrinsics and background of `draw`, float64."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    branches = [
        MovingGaussians(
            normal(n, 3) * torch.tensor([4.0, 4.0, 2.0]), normal(n, 4), normal(n, 3) * 0.4, normal(n), normal(n, 3),
            normal(n), normal(k, n, 14) * 0.3, normal(batch, k),
        )
        for n, k in zip(counts, bases, strict=True)
    ]  # fmt: skip
    poses = torch.eye(4, dtype=torch.float64)[:3].repeat(batch, 2, 1, 1)
    poses[..., 2, 3] = 50.0
    intrinsics = torch.tensor([3.0 * width, 2.9 * width, width / 2 + 0.3, height / 2 - 0.2], dtype=torch.float64)
    background = torch.rand(height, width, 3, generator=g, dtype=torch.float64)
    return branches, poses + 0.02 * normal(batch, 2, 3, 4), intrinsics, background


def linear_loss_gradients(image: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed random gradients by image and alpha."""
    g = torch.Generator().manual_seed(99)
    v_image = torch.randn(image.shape, generator=g, dtype=torch.float64)
    return v_image.to(image), torch.randn(alpha.shape, generator=g, dtype=torch.float64).to(alpha)


def draw_with_gradients(
    scene: tuple[list[MovingGaussians], Tensor, Tensor, Tensor | None],
    backend: str,
    dtype: torch.dtype = torch.float64,
    coverage: int = 2,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """image, alpha, sink, and the gradient of every input of `draw` under a fixed random linear loss."""
    branches, poses, intrinsics, background = scene
    height, width = (37, 40) if background is None else background.shape[:2]

    def leaf(t: Tensor) -> Tensor:
        return t.to(device, dtype).clone().requires_grad_()

    named = {"poses": leaf(poses), "intrinsics": leaf(intrinsics)}
    if background is not None:
        named["background"] = leaf(background)
    moved = []
    for i, branch in enumerate(branches):
        leaves = MovingGaussians(*(leaf(t) for t in branch))
        named |= {f"{name}{i}": t for name, t in leaves._asdict().items()}
        moved.append(leaves)
    sink = torch.zeros(sum(b.means.shape[0] for b in moved), 2, dtype=dtype, device=device)
    image, alpha = draw(
        moved,
        named["poses"],
        named["intrinsics"],
        named.get("background"),
        UNITS,
        width,
        height,
        coverage,
        backend,
        sink,
    )
    v_image, v_alpha = linear_loss_gradients(image, alpha)
    ((image * v_image).sum() + (alpha * v_alpha).sum()).backward()
    out = {"image": image.detach(), "alpha": alpha.detach(), "sink": sink}
    for name, t in named.items():
        assert t.grad is not None, f"no gradient for {name}"
        out[name] = t.grad
    return out
