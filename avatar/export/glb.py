"""GLB: a binary glTF 2.0 file with the Khronos extension KHR_gaussian_splatting, and expressions as morph targets.

Sources: glTF 2.0 specification (morph targets, sparse accessors), KHR_gaussian_splatting (attribute names, linear
scales, activated opacities, quaternions xyzw, colour space names). Units m, x right, y up, z towards the front.

Each of the 52 coefficients is a POSITION target of that name (``mesh.extras.targetNames``). An avatar moves almost
but not quite linearly in its coefficients; targets are exact at the person's mean expression (the default weights)
and where one coefficient of it is raised to the largest that the clip showed. Rotation, size, colour and opacity keep
the values of the mean expression, for glTF readers morph positions only.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from avatar.conventions import BLENDSHAPES
from avatar.export.options import ExportOptions
from avatar.export.splats import Splats, positions, splats
from avatar.files import replacing
from avatar.model import Avatar

EXTENSION = "KHR_gaussian_splatting"
FLOAT, UNSIGNED_INT, UNSIGNED_BYTE = 5126, 5125, 5121
POINTS = 0
ARRAY_BUFFER = 34962
"""Hint that a buffer view holds vertex attributes."""
STILL = 1e-7
"""m. Below a ten-thousandth of a millimetre a Gaussian does not follow a coefficient."""

SMALLEST_RISE = 0.1
"""Of a coefficient that the clip hardly showed."""


def export_glb(avatar: Avatar, folder: Path, options: ExportOptions) -> list[Path]:
    """Writes ``NAME.glb``; Gaussians keep their order.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / f"{options.name}.glb"
    rest = avatar.rest_coefficients()
    base, targets = morph_targets(avatar)
    content = glb_bytes(splats(avatar, rest), base, targets, rest, options.name)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return [path]


def morph_targets(avatar: Avatar) -> tuple[Float32[np.ndarray, "N 3"], list[Float32[np.ndarray, "N 3"]]]:
    """Positions for all coefficients 0, and what each coefficient adds at 1, m.

    A target is the secant from the mean expression to the same with its coefficient raised, see `raised_to`."""
    rest, highest = avatar.rest_coefficients(), raised_to(avatar)
    middle = positions(avatar, rest)
    base, targets = middle.astype(np.float64), []
    for index in range(len(BLENDSHAPES)):
        raised = rest.copy()
        raised[index] = highest[index]
        target = (positions(avatar, raised) - middle) / float(highest[index] - rest[index])
        target[np.abs(target).max(axis=1) < STILL] = 0.0
        base -= float(rest[index]) * target.astype(np.float64)
        targets.append(target.astype(np.float32))
    return base.astype(np.float32), targets


def raised_to(avatar: Avatar) -> Float32[np.ndarray, "52"]:
    """Up to where each target is fitted: the largest value of the person's range, a step above the mean at least.

    Fitted up to 1 they are 3 times as far off in the person's own motion (0.11 instead of 0.03 mm on the mean)."""
    return np.maximum(avatar.person.high, avatar.rest_coefficients() + SMALLEST_RISE).astype(np.float32)


class _Buffer:
    """The binary chunk and the JSON that describes it, built together."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, array: np.ndarray, **more: Any) -> int:
        """Appends an array (4-byte aligned); returns its buffer view."""
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes, **more})
        self.data += array.tobytes()
        return len(self.views) - 1

    def accessor(self, array: np.ndarray, kind: str, **more: Any) -> int:
        """Appends an attribute; returns its accessor."""
        code = {"f": FLOAT, "u": UNSIGNED_BYTE}[array.dtype.kind]
        view = self.view(array, target=ARRAY_BUFFER)
        self.accessors.append({"bufferView": view, "componentType": code, "count": len(array), "type": kind, **more})
        return len(self.accessors) - 1

    def sparse(self, array: Float32[np.ndarray, "N 3"]) -> int:
        """Appends displacements, only those that are not zero where that is smaller."""
        rows = np.flatnonzero(array.any(axis=1)).astype("<u4")
        bounds = {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        if len(rows) * 16 >= array.nbytes:
            return self.accessor(array.astype("<f4"), "VEC3", **bounds)
        accessor: dict[str, Any] = {"componentType": FLOAT, "count": len(array), "type": "VEC3", **bounds}
        if len(rows):
            accessor["sparse"] = {
                "count": len(rows),
                "indices": {"bufferView": self.view(rows), "componentType": UNSIGNED_INT},
                "values": {"bufferView": self.view(array[rows].astype("<f4"))},
            }
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def glb_bytes(
    gaussians: Splats,
    base: Float32[np.ndarray, "N 3"],
    targets: list[Float32[np.ndarray, "N 3"]],
    weights: Float32[np.ndarray, "52"],
    name: str,
) -> bytes:
    """The file's content.

    Args:
        gaussians: all attributes but the positions.
        base: positions for all weights 0, m.
        targets: displacement per coefficient at 1, m.
        weights: the coefficients shown by default.
    """
    buffer = _Buffer()
    bounds = {"min": base.min(axis=0).tolist(), "max": base.max(axis=0).tolist()}
    color = np.concatenate([gaussians.colors, gaussians.opacities[:, None]], axis=1)
    attributes = {
        "POSITION": buffer.accessor(base.astype("<f4"), "VEC3", **bounds),
        # what readers without the extension draw as points
        "COLOR_0": buffer.accessor(np.round(color.clip(0, 1) * 255).astype(np.uint8), "VEC4", normalized=True),
        f"{EXTENSION}:ROTATION": buffer.accessor(np.roll(gaussians.quats, -1, axis=1).astype("<f4"), "VEC4"),
        f"{EXTENSION}:SCALE": buffer.accessor(np.exp(gaussians.log_scales).astype("<f4"), "VEC3"),
        f"{EXTENSION}:OPACITY": buffer.accessor(gaussians.opacities.astype("<f4"), "SCALAR"),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": buffer.accessor(gaussians.sh_dc.astype("<f4"), "VEC3"),
    }
    primitive = {
        "mode": POINTS,
        "attributes": attributes,
        "targets": [{"POSITION": buffer.sparse(target)} for target in targets],
        "extensions": {
            EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "sortingMethod": "cameraDistance",
                "projection": "perspective",
            }
        },
    }
    mesh = {
        "name": name,
        "primitives": [primitive],
        "weights": [round(float(w), 6) for w in weights],
        "extras": {"targetNames": list(BLENDSHAPES)},
    }
    gltf = {
        "asset": {"version": "2.0", "generator": "avatar"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [mesh],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    return _container(json.dumps(gltf, allow_nan=False, separators=(",", ":")).encode(), bytes(buffer.data))


def _container(text: bytes, data: bytes) -> bytes:
    """GLB: header, JSON chunk padded with spaces, binary chunk padded with zeros."""
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks
