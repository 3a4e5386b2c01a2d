"""``manifest.json``: what every number and file of a player folder means. ``modules/load.js`` reads it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

from avatar import __version__
from avatar.conventions import BLENDSHAPES, BRANCHES, CODES, MOUTH_INDICES
from avatar.model import Avatar
from avatar.model.beyond import LIPS_CM, LIPS_REACH
from avatar.model.gaussians import BASIS_COLUMNS
from avatar.model.lids import EYES
from avatar.model.limits import FEATURE_REACH, WEIGHT_REACH
from avatar.model.motion import CODE_DRIVERS, CODE_REACH, ROTATION_UNIT
from avatar.raster import reference
from avatar.speech.manner import BLINK_REFRACTORY_SECONDS, FADE_RATE, STRETCH_SECONDS
from avatar.speech.motion import TORSO_SLOW_SECONDS
from avatar.speech.person import BLINK_RATE, EXCERPT_RATE, EYE_COLUMNS, FACE_INDICES
from avatar.track.exchange import RATES

MANIFEST: Final = "manifest.json"
FORMAT: Final = "avatar-player"
VERSION: Final = 3
"""The player refuses a manifest with a larger number than its own. Since 2 the driver gives the model's own weights,
which are limited and then mixed into those of the stored bases; before, the driver was stored already mixed. Since 3
an ellipsoid limits them, and the driver hears appearance codes."""


def described(
    avatar: Avatar, name: str, tensors: dict[str, dict[str, Any]], speech: dict[str, Any] | None
) -> dict[str, Any]:
    """The manifest without ``files``.

    Args:
        tensors: the payload's table.
        speech: the speech model's inputs, outputs and audio settings; None without one.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "tool": f"avatar {__version__}",
        "license": "The player's code: MIT, see LICENSE. The person's likeness: see provenance.consent.",
        "provenance": dataclasses.asdict(avatar.metadata.provenance),
        "units": {"length": "cm", "time": "s", "angle": "rad", "colour": "sRGB-encoded 0..1", "pixel_centre": 0.5},
        "axes": "head: x image right, y up, z out of the face; camera: OpenCV x right, y down, z forward",
        "coefficients": list(BLENDSHAPES),
        "camera": dataclasses.asdict(avatar.camera),
        "fps": avatar.metadata.fps,
        "rest": avatar.metadata.reference_pose,
        "layers": [_layer(avatar, branch) for branch in BRANCHES],
        "basis_columns": [[key, width] for key, width, _ in BASIS_COLUMNS],
        "driver": {
            "rotation_unit": ROTATION_UNIT, "mouth_indices": list(MOUTH_INDICES),
            "eye_indices": [list(eye) for eye in EYES],
            "codes": [[name, size] for name, size in CODES.items()], "code_drivers": list(CODE_DRIVERS),
            "code_reach": CODE_REACH,
            "feature_reach": FEATURE_REACH, "weight_reach": WEIGHT_REACH,
            "lips_cm": list(LIPS_CM),
            "lips_reach": LIPS_REACH,
        },
        "raster": raster_constants(),
        "manner": {
            "rate": EXCERPT_RATE, "stretch_seconds": list(STRETCH_SECONDS), "fade_rate": FADE_RATE,
            "blink_rate": BLINK_RATE, "blink_refractory_seconds": BLINK_REFRACTORY_SECONDS,
            "face_indices": FACE_INDICES, "eye_columns": EYE_COLUMNS, "torso_slow_seconds": TORSO_SLOW_SECONDS,
        },
        "timecode_rates": list(RATES),
        "speech": speech,
        "tensors": tensors,
    }  # fmt: skip


def raster_constants() -> dict[str, Any]:
    """What `avatar.raster.reference` and ``cuda_ext/include/avatar/config.h`` draw by."""
    return {
        "near_cm": reference.NEAR_CM,
        "blur_px2": reference.BLUR_PX2,
        "alpha_min": reference.ALPHA_MIN,
        "alpha_max": reference.ALPHA_MAX,
        "transmittance_min": reference.TRANSMITTANCE_MIN,
        "fov_margin": reference.FOV_MARGIN,
        "log_scale_range": list(reference.LOG_SCALE_RANGE),
        "quat_eps": reference.QUAT_EPS,
    }


def is_player(folder: Path) -> bool:
    """Whether a folder holds an exported player."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def exported_files(folder: Path) -> set[str]:
    """What an exported player says belongs to it, by path relative to its folder; empty for any other folder."""
    if not is_player(folder):
        return set()
    return {MANIFEST, *json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("files", {})}


def _layer(avatar: Avatar, name: str) -> dict[str, Any]:
    branch = avatar.model.branch(name)
    return {
        "name": name,
        "gaussians": branch.count,
        "bases": branch.basis_count,
        "modes": branch.mode_count,
        "features": list(avatar.model.features.heard(name)),
    }
