"""From a clip of someone talking to a talking avatar of them.

>>> import avatar
>>> result = avatar.fit("clip.mp4", "out", avatar.load_preset("quick"))  # doctest: +SKIP
>>> picture = avatar.load("out/out.avatar").render({"jawOpen": 0.5})     # doctest: +SKIP
"""

from __future__ import annotations

from importlib import metadata as _metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatar.config import load_preset
from avatar.errors import UserError

if TYPE_CHECKING:
    from avatar.model import Avatar
    from avatar.pipeline import FitResult

try:
    __version__ = _metadata.version("avatar")
except _metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"

__all__ = ["UserError", "__version__", "fit", "load", "load_preset"]


def load(path: str | Path) -> Avatar:
    """Opens a `.avatar` file; see `model.Avatar` for what it can do.

    Raises:
        UserError: missing, not an avatar, damaged, or of a newer schema.
    """
    from avatar.model import Avatar  # torch is imported only when something is done

    return Avatar.load(path)


def fit(clip: str | Path, run_folder: str | Path | None = None, *args: Any, **kwargs: Any) -> FitResult:
    """Turns a clip into an avatar; the arguments are those of `pipeline.fit`."""
    from avatar.pipeline import fit as run

    return run(clip, run_folder, *args, **kwargs)
