"""The person's own motion for animation programs: Live Link Face CSV (Unreal, Unity, Blender) and JSON."""

from __future__ import annotations

from pathlib import Path

from avatar.errors import UserError
from avatar.model import Avatar
from avatar.track import track_to_csv, track_to_json


def export_track(avatar: Path, output: Path) -> list[Path]:
    """Writes ``NAME.csv`` and ``NAME.json`` with the motion that the avatar file keeps of its clip; `track.exchange`
    describes both.

    Raises:
        UserError: an avatar that cannot be read or keeps no motion, or a folder that cannot be written.
    """
    motion = Avatar.load(avatar).motion
    if motion is None:
        raise UserError(f"{avatar} was made before avatar files kept their clip's motion; fit the clip again.")
    paths = [output / f"{avatar.stem}.csv", output / f"{avatar.stem}.json"]
    track_to_csv(motion, paths[0])
    track_to_json(motion, paths[1])
    return paths
