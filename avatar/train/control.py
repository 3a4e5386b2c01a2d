"""How another program steers a fit: one word in the file `control` of its run folder, read between two steps.

pause   a checkpoint is saved and the fit waits until the file says something else or is gone
stop    the fit ends after this step as with Ctrl-C, leaving a usable avatar
save    a checkpoint is saved now
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from avatar.files import replacing

Command = Literal["pause", "continue", "stop", "save"]
_POLL_SECONDS = 0.2


def control_path(run_folder: Path) -> Path:
    """Where a fit looks for commands."""
    return run_folder / "control"


def send_command(run_folder: Path, command: Command) -> None:
    """Leaves a command for the fit in a run folder; 'continue' takes back what was there.

    Raises:
        UserError: the folder cannot be written.
    """
    with replacing(control_path(run_folder)) as partial:
        partial.write_text("" if command == "continue" else command, encoding="ascii")


def read_command(run_folder: Path) -> str:
    """What the fit was last told and has not yet done; empty without."""
    try:
        return control_path(run_folder).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):  # most often: there is no such file
        return ""


class Control:
    """The fit's side. Commands from before the fit started are dropped."""

    def __init__(self, run_folder: Path, save: Callable[[], None]) -> None:
        """
        Args:
            save: writes a checkpoint.
        """
        self._folder, self._path, self._save = run_folder, control_path(run_folder), save
        self._path.unlink(missing_ok=True)

    def goes_on(self, interrupted: Callable[[], bool]) -> bool:
        """Obeys; False when the fit is to end. Waits while it is to pause and is not interrupted."""
        command = read_command(self._folder)
        if command == "pause":
            self._save()
            while (command := read_command(self._folder)) == "pause" and not interrupted():
                time.sleep(_POLL_SECONDS)
        if command == "save":
            self._path.unlink(missing_ok=True)
            self._save()
        elif command == "stop":
            self._path.unlink(missing_ok=True)
            return False
        return not interrupted()
