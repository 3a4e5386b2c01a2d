"""`speech.safetensors`: log-mel and times on disk. Owner of the format.

Tensors: log_mel [T,M] f4 (natural logarithm of mel power), times [T] f8 s. Metadata: format, version, offset_seconds.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from avatar.errors import UserError, one_line
from avatar.files import save_tensors
from avatar.types import SpeechFeatures

FORMAT = "avatar-speech"
VERSION = 1


def save_speech(features: SpeechFeatures, path: Path) -> None:
    """Writes the features whole or not at all.

    Raises:
        UserError: the place cannot be written.
    """
    tensors = {
        "log_mel": torch.from_numpy(np.ascontiguousarray(features.log_mel)),
        "times": torch.from_numpy(np.ascontiguousarray(features.times)),
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "offset_seconds": repr(float(features.offset_seconds))}
    save_tensors(path, tensors, metadata)


def load_speech(path: Path) -> SpeechFeatures:
    """Reads what `save_speech` wrote.

    Raises:
        UserError: missing, damaged, foreign, or of a newer version.
    """
    if not path.is_file():
        raise UserError(f"There are no speech features at {path}; run the fit again.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); delete it and run the fit again.") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} does not hold speech features; delete it and run the fit again.")
    try:
        if int(metadata["version"]) > VERSION:
            raise UserError(f"{path} was written by a newer version of avatar; update it, or delete the file.")
        features = SpeechFeatures(tensors["log_mel"], tensors["times"], float(metadata["offset_seconds"]))
        whole = features.log_mel.ndim == 2 and features.times.shape == (len(features.log_mel),)
        whole = whole and len(features.log_mel) > 0 and math.isfinite(features.offset_seconds)
    except (KeyError, ValueError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged; delete it and run the fit again.")
    return features
