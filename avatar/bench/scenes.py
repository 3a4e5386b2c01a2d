"""Seeded head-sized scenes, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatar.errors import UserError, one_line
from avatar.files import save_tensors

NAMES = ("means", "quats", "log_scales", "opacity_logits", "colors", "skin", "layers", "poses", "intrinsics")


@dataclass(frozen=True)
class SceneSize:
    """What is drawn: B images of size x size px from N Gaussians."""

    splats: int
    size: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.splats // 1000}k_{self.size}px_b{self.batch}"


SIZES = tuple(
    SceneSize(splats, size, batch) for batch in (1, 8) for size in (256, 512) for splats in (10_000, 30_000, 60_000)
)


def make_scene(splats: int, size: int, batch: int = 1, seed: int = 0) -> list[Tensor]:
    """means, quats, log_scales, opacity_logits, colors, skin, layers, poses, intrinsics of a random scene (float32):
    Gaussians of 0.7 to 3.7 px standard deviation, spread over half of the image."""
    g = torch.Generator().manual_seed(seed)
    depth_cm, focal_px = 60.0, 2.0 * size
    px = depth_cm / focal_px  # cm per px at that depth
    half = size * 0.5**0.5 / 2  # a square of half the image's area
    means = torch.empty(batch, splats, 3)
    means[..., :2] = (torch.rand(batch, splats, 2, generator=g) * 2 - 1) * half * px
    means[..., 2] = torch.rand(batch, splats, generator=g) * 4 - 2
    sigma_px = 0.7 + 3.0 * torch.rand(batch, splats, 3, generator=g)
    poses = torch.eye(4)[:3].repeat(batch, 2, 1, 1)
    poses[..., 2, 3] = depth_cm
    return [
        means,
        torch.randn(batch, splats, 4, generator=g),
        (sigma_px * px).log(),
        torch.randn(batch, splats, generator=g),
        torch.rand(batch, splats, 3, generator=g),
        torch.rand(splats, generator=g),
        torch.zeros(splats, dtype=torch.int32),
        poses,
        torch.tensor([focal_px, focal_px, size / 2, size / 2]),
    ]


def load_or_make(size: SceneSize, folder: Path | None) -> list[Tensor]:
    """The scene from `folder`, where it is saved on first use; made anew from its seed without a folder.

    Raises:
        UserError: the file there is damaged or another scene's, or the folder cannot be written.
    """
    if folder is None:
        return make_scene(size.splats, size.size, size.batch)
    path = folder / f"{size.name}.safetensors"
    if not path.exists():
        scene = make_scene(size.splats, size.size, size.batch)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The scenes folder {folder} cannot be made: {one_line(error)}.") from None
        save_tensors(path, dict(zip(NAMES, scene, strict=True)), {"seed": "0"})
        return scene
    try:
        with safe_open(path, framework="pt") as file:
            scene = [file.get_tensor(name) for name in NAMES]
    except (SafetensorError, OSError) as error:
        raise UserError(f"The scene {path} is damaged ({one_line(error)}); delete it and run again.") from None
    for name, found, wanted in zip(NAMES, scene, make_scene(size.splats, size.size, size.batch), strict=True):
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise UserError(f"The scene {path} is another one ({name} has another shape); delete it and run again.")
    return scene
