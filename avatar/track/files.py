"""`track.safetensors`: the tracking stage's result on disk. Owner of the format.

Tensors: times [N] f8 s, valid [N] u1, camera_from_head [N,4,4] f8, camera_from_torso [N,4,4] f8, coefficients [N,52]
f4, landmarks [N,478,2] f4 px, neutral [478,3] f4 cm, backdrop [H,W,3] u1, region_data [B] u1 (zlib streams: labels
then matte of each frame), region_offsets [2N+1] i8, codes [N,20] f4 where there are any. Metadata: format, version,
camera, reference_frame, blendshapes, findings.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from avatar.conventions import BLENDSHAPES, CODES
from avatar.errors import UserError, one_line
from avatar.files import replacing
from avatar.track.regions import StoredRegions
from avatar.types import Camera, Finding, Track

FORMAT = "avatar-track"
VERSION = 1
_ARRAYS = (
    "times",
    "valid",
    "camera_from_head",
    "camera_from_torso",
    "coefficients",
    "landmarks",
    "neutral",
    "backdrop",
)


def save_track(track: Track, path: Path) -> None:
    """Writes the track whole or not at all.

    Raises:
        UserError: the place cannot be written.
    """
    regions = track.regions
    if not isinstance(regions, StoredRegions):
        raise TypeError("only a track with stored regions can be saved")
    tensors = {name: np.ascontiguousarray(getattr(track, name)) for name in _ARRAYS}
    if track.codes is not None:
        tensors["codes"] = np.ascontiguousarray(track.codes)
    tensors["valid"] = tensors["valid"].astype(np.uint8)
    tensors["region_data"] = regions.blob
    tensors["region_offsets"] = regions.offsets
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "camera": json.dumps(asdict(track.camera)),
        "reference_frame": str(track.reference_frame),
        "blendshapes": json.dumps(BLENDSHAPES),
        "findings": json.dumps([asdict(f) for f in track.findings]),
    }
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(one_line(error)) from error


def load_track(path: Path) -> Track:
    """Reads a track back; regions are decoded only when asked for.

    Raises:
        UserError: the file is missing, damaged, foreign or of a newer version.
    """
    if not path.is_file():
        raise UserError(f"There is no track at {path}: run the tracking stage first.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path} is not a track of this program.")
            if int(metadata["version"]) > VERSION:
                raise UserError(f"{path} was written by a newer version of this program: update it to read the track.")
            names = [*_ARRAYS, "region_data", "region_offsets"]
            names += ["codes"] if "codes" in file.keys() else []  # noqa: SIM118 - safe_open is no dict
            tensors = {name: file.get_tensor(name) for name in names}
        return _build(tensors, metadata)
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): delete it and track again.") from error


def _build(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> Track:
    camera = Camera(**json.loads(metadata["camera"]))
    count, blendshapes = len(tensors["times"]), len(BLENDSHAPES)
    shapes = {
        "valid": (count,), "camera_from_head": (count, 4, 4), "camera_from_torso": (count, 4, 4),
        "coefficients": (count, blendshapes), "landmarks": (count, 478, 2), "neutral": (478, 3),
        "backdrop": (camera.height, camera.width, 3), "region_offsets": (2 * count + 1,),
    }  # fmt: skip
    if "codes" in tensors:
        shapes["codes"] = (count, sum(CODES.values()))
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {tensors[name].shape} instead of {shape}")
    reference = int(metadata["reference_frame"])
    if not 0 <= reference < count:
        raise ValueError("the reference frame lies outside the clip")
    return Track(
        camera=camera,
        valid=tensors["valid"].astype(bool),
        regions=StoredRegions(tensors["region_data"], tensors["region_offsets"], camera.width),
        reference_frame=reference,
        findings=tuple(Finding(**f) for f in json.loads(metadata["findings"])),
        **{n: tensors[n] for n in _ARRAYS if n != "valid"},
        codes=tensors.get("codes"),
    )
