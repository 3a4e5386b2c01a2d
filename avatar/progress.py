"""How long-running stages talk to the person waiting: lines and progress bars on stderr (rich), or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from avatar.types import Finding


@runtime_checkable
class Bar(Protocol):
    """A running progress bar."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Moves the bar; `note` is shown at its end (current score, say)."""
        ...


class _RichBar:
    def __init__(self, progress: Progress, task_id: TaskID) -> None:
        self._progress, self._task_id = progress, task_id

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.advance(self._task_id, steps)
        if note:
            self._progress.update(self._task_id, note=note)


class _SilentBar:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class Reporter:
    """Says things and shows bars. `Reporter(quiet=True)` is silent (library use, tests)."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = Console(stderr=True, quiet=quiet, highlight=False)

    def say(self, message: str) -> None:
        """One line for the user."""
        self._console.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """One line the user should not miss."""
        self._console.print("warning: " + message, style="yellow", markup=False, soft_wrap=True)

    def finding(self, finding: Finding) -> None:
        """What a stage found about the clip."""
        (self.warn if finding.severity == "warning" else self.say)(finding.message)

    @contextmanager
    def bar(self, description: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """A progress bar with elapsed time and ETA; `total` None shows a pulse."""
        if self.quiet:
            yield _SilentBar()
            return
        columns = (
            TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=self._console) as progress:
            yield _RichBar(progress, progress.add_task(description, total=total, completed=done, note=""))


SILENT = Reporter(quiet=True)
