"""Stage 8: an avatar in the formats that other programs read.

`FORMATS` is the one list of them. A format is a function that writes into a folder and returns the paths it wrote,
each of them whole or not at all (`avatar.files`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from avatar.errors import UserError
from avatar.export.glb import export_glb
from avatar.export.options import ExportOptions, expression
from avatar.export.player import export_player
from avatar.export.ply import export_ply
from avatar.export.spz import export_spz
from avatar.export.track import export_track
from avatar.model import Avatar

__all__ = ["FORMATS", "ExportOptions", "check_options", "export", "export_track", "expression"]


Format = Callable[[Avatar, Path, ExportOptions], list[Path]]
"""Avatar, folder to write into (it may exist), options -> paths written, the most important one first."""

FORMATS: dict[str, Format] = {
    "player": export_player,
    "ply": export_ply,
    "spz": export_spz,
    "glb": export_glb,
}
"""Name after ``--format`` -> what writes it."""


_FLAGS = {
    "coefficients": "--expression", "single_file": "--single-file", "float_bases": "--float-bases",
    "runtime": "--runtime",
}  # fmt: skip
_READ = {
    "player": ("single_file", "float_bases", "runtime"),
    "ply": ("coefficients",),
    "spz": ("coefficients",),
    "glb": (),
    "track": (),
}
"""Format -> the options that mean something to it."""


def check_options(format: str, options: ExportOptions) -> None:
    """Refuses what a format would not read; "track" is the format of ``--track``.

    Raises:
        UserError: an option that is for other formats.
    """
    for name, flag in _FLAGS.items():
        if getattr(options, name) and name not in _READ[format]:
            readers = " and ".join(other for other, read in _READ.items() if name in read)
            raise UserError(f"{flag} is for {readers}, not for {format}; leave it out.")


def export(avatar: Path, output: Path, format: str, options: ExportOptions) -> list[Path]:
    """Writes an avatar file in another format; returns the paths written.

    Raises:
        UserError: unknown format, an option that it does not read, an avatar that cannot be read, a folder that
            cannot be written.
    """
    if format not in FORMATS:
        raise UserError(f"There is no export format '{format}'; choose one of {', '.join(FORMATS)}.")
    check_options(format, options)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; name a folder with -o.")
    return FORMATS[format](Avatar.load(avatar), output, options)
