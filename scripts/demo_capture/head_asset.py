"""The demo person's coarse mesh and his 52 expression shapes, read from ``head.safetensors`` (see extract_head.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from avatar.conventions import BLENDSHAPES

ASSET = Path(__file__).with_name("head.safetensors")


@dataclass(frozen=True)
class HeadAsset:
    """Coarse quad mesh in head space, cm (x to image right, y up, z out of the face)."""

    vertices: np.ndarray
    """(V, 3) at rest."""
    body_quads: np.ndarray
    tongue_quads: np.ndarray
    lashes_quads: np.ndarray
    upper_teeth: np.ndarray
    """Vertex indices of a rough upper denture; the real teeth are grown along it."""
    lower_teeth: np.ndarray
    head_share: np.ndarray
    """(V,) 1 = moves with the head, 0 = with the torso."""
    masks: np.ndarray
    """(V, 4) lips, eyelids, ears, inside of the mouth; 0..1."""
    eye_centres: np.ndarray
    """(2, 3): the person's left eye, then the right."""
    eye_radius: float
    neck_pivot: np.ndarray
    chest_pivot: np.ndarray
    shapes: np.ndarray
    """(52, V, 3) displacement at coefficient 1, in the order of conventions.BLENDSHAPES."""


def load() -> HeadAsset:
    """Reads the asset that lies beside this module."""
    data = load_file(ASSET)
    vertices = data["vertices"]
    shapes = np.zeros((len(BLENDSHAPES), len(vertices), 3), np.float32)
    for i, name in enumerate(BLENDSHAPES):
        shapes[i, data[f"shape.{name}.index"]] = data[f"shape.{name}.delta"]
    index = {k: data[k].astype(np.int64) for k in ("body_quads", "tongue_quads", "lashes_quads",
                                                   "upper_teeth", "lower_teeth")}  # fmt: skip
    return HeadAsset(
        vertices=vertices, head_share=data["head_share"], masks=data["masks"], eye_centres=data["eye_centres"],
        eye_radius=float(data["eye_radius"][0]), neck_pivot=data["neck_pivot"], chest_pivot=data["chest_pivot"],
        shapes=shapes, **index,
    )  # fmt: skip
