"""Shared by the tests of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avatar.model import Metadata
from avatar.model.file import save_avatar
from avatar.types import Provenance


@pytest.fixture()
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model, made for some frames with this many hidden units, to a file of its own."""

    def save(model, frames, hidden: int) -> Path:
        reference = {k: np.eye(3, 4).tolist() for k in ("camera_from_head", "camera_from_torso")}
        provenance = Provenance("a.mp4", "0" * 64, "0", "now")
        metadata = Metadata(frames.camera, provenance, 25.0, reference_pose=reference, hidden=hidden)
        path = tmp_path / "a.avatar"
        save_avatar(path, model, metadata, {})
        return path

    return save
