"""What an export can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.errors import UserError
from avatar.progress import SILENT, Reporter


@dataclass(frozen=True)
class ExportOptions:
    """What a format may be told beyond where to write. A docstring that starts with formats' names is for those."""

    name: str
    """Name of the avatar; files are called after it."""
    avatar_path: Path
    """The file that is exported."""
    coefficients: Mapping[str, float] = field(default_factory=dict)
    """ply, spz: ARKit coefficients of the expression to freeze, 0..1; the others rest at the person's mean."""
    single_file: bool = False
    """player: everything in one HTML file."""
    float_bases: bool = False
    """player: motion bases in float32 rather than int16 and int8."""
    runtime: Path | None = None
    """player: folder of the npm package onnxruntime-web; None looks where the set-up puts it."""
    reporter: Reporter = SILENT


def expression(words: tuple[str, ...]) -> dict[str, float]:
    """``("jawOpen=0.5", ...)`` as coefficients by name.

    Raises:
        UserError: not NAME=VALUE, an unknown name, or a value outside 0..1.
    """
    values = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in BLENDSHAPE_INDEX:
            raise UserError(f"There is no coefficient '{name}'; the names are ARKit's, for example jawOpen=0.5.")
        try:
            values[name] = float(number)
        except ValueError:
            raise UserError(f"'{word}' is not a coefficient and its value; write for example jawOpen=0.5.") from None
        if not 0 <= values[name] <= 1:
            raise UserError(f"{name}={number} is out of range; choose 0 to 1.")
    return values
