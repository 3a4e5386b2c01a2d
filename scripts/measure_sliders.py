"""How far sliders move an avatar: each coefficient at 1 as a share of what the geometric prior would have it move.

    python scripts/measure_sliders.py NAME.avatar... [--sheet FOLDER]

Share 1 is the prior's own motion of the face's Gaussians from the mean expression (their displacements, projected on
the prior's); *learned* is the share of the learned bases within their limits, *all* with what the prior adds beyond. A
coefficient that the clip moved may well differ from 1: there the person is the measure, not the prior. With --sheet,
NAME.jpg shows every slider at 0.5 and at 1. docs/quality.md holds a summary.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw

from avatar.conventions import BLENDSHAPES
from avatar.dataset import MotionBatch, motion_tensors
from avatar.model import Avatar
from avatar.model.carry import carried_by_face
from avatar.model.motion import MOVED_FLOOR

TILE_PX, COLUMNS = 200, 8


def slider_motion(avatar: Avatar) -> MotionBatch:
    """The mean expression, then each coefficient in turn at 1."""
    motion = avatar.rest_motion(np.zeros(1 + len(BLENDSHAPES)))
    np.fill_diagonal(motion.coefficients[1:], 1.0)
    return motion_tensors(motion, torch.device("cpu"))


@torch.no_grad()
def shares(avatar: Avatar) -> tuple[Float[np.ndarray, " 52"], Float[np.ndarray, " 52"]]:
    """Of each coefficient: of the learned bases alone, and of all; NaN where the prior moves nothing."""
    model, face = avatar.model, avatar.model.branch("face")
    if model.beyond is None:
        raise SystemExit("This avatar is of an early version, without the prior that sliders are measured against.")
    mesh, field = (part.double().numpy() for part in (model.beyond.mesh, model.beyond.field))
    prior = carried_by_face(face.means.double().numpy(), mesh, field)
    prior *= 1 - avatar.rest_coefficients()[:, None, None]
    weights = model.weights(slider_motion(avatar))["face"]
    bases = ((face.bases * face.basis_units)[..., :3]).flatten(1)
    learned = face.basis_count
    size = (prior**2).sum(axis=(1, 2))
    found = []
    for w, b in ((weights[:, :learned], bases[:learned]), (weights, bases)):
        moved = ((w[1:] - w[:1]) @ b).view(len(BLENDSHAPES), -1, 3).double().numpy()
        found.append(np.where(size > 1e-6, (moved * prior).sum(axis=(1, 2)) / np.maximum(size, 1e-6), np.nan))
    return found[0], found[1]


def table(avatar: Avatar) -> str:
    """One line per coefficient, the means last."""
    learned, whole = shares(avatar)
    clip = avatar.motion.coefficients if avatar.motion is not None else np.zeros((1, len(BLENDSHAPES)))
    moved, known = clip.std(axis=0) >= MOVED_FLOOR, np.isfinite(whole)
    lines = ["coefficient              most in the clip  learned   all"]
    for i, name in enumerate(BLENDSHAPES):
        if known[i]:
            lines.append(f"{name:24} {clip[:, i].max():16.2f} {learned[i]:8.2f} {whole[i]:5.2f}")
    for label, chosen in (("never moved", known & ~moved), ("moved", known & moved)):
        count = f"{label}, {chosen.sum()}"
        ends = f"{whole[chosen].min():.2f} to {whole[chosen].max():.2f}"
        lines.append(f"{count:24} {'':16} {learned[chosen].mean():8.2f} {whole[chosen].mean():5.2f}   ({ends})")
    return "\n".join(lines)


def sheet(avatar: Avatar) -> Image.Image:
    """Every slider at 0.5 and at 1, side by side."""
    tiles = []
    for name in BLENDSHAPES:
        for value in (0.5, 1.0):
            tile = Image.fromarray(avatar.render({name: value})).resize((TILE_PX, TILE_PX))
            ImageDraw.Draw(tile).text((3, 3), f"{name} {value:g}", fill=(255, 40, 40))
            tiles.append(tile)
    page = Image.new("RGB", (COLUMNS * TILE_PX, -(-len(tiles) // COLUMNS) * TILE_PX))
    for i, tile in enumerate(tiles):
        page.paste(tile, (i % COLUMNS * TILE_PX, i // COLUMNS * TILE_PX))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("avatars", nargs="+", type=Path)
    parser.add_argument("--sheet", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    for path in options.avatars:
        avatar = Avatar.load(path)
        print(f"{path.name}\n{table(avatar)}\n")
        if options.sheet is not None:
            options.sheet.mkdir(parents=True, exist_ok=True)
            sheet(avatar).save(options.sheet / f"{path.stem}.jpg", quality=90)


if __name__ == "__main__":
    main()
