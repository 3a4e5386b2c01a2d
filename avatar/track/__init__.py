"""The tracking stage: from frames to camera, head and torso pose, 52 coefficients, regions and backdrop."""

from __future__ import annotations

from avatar.track.exchange import (
    head_angles,
    head_rotations,
    read_motion_csv,
    read_motion_json,
    track_to_csv,
    track_to_json,
)
from avatar.track.files import load_track, save_track
from avatar.track.stage import track

__all__ = [
    "head_angles", "head_rotations", "load_track", "read_motion_csv", "read_motion_json", "save_track", "track",
    "track_to_csv", "track_to_json",
]  # fmt: skip
