"""A fit that is under way: curves, pause, stop, and a fresh look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from avatar.errors import UserError
from avatar.train.control import Command
from avatar.viewer.training import Progress

if TYPE_CHECKING:
    from avatar.viewer.session import Session

QUIET_SECONDS = 120.0
"""A fit writes a line every 25 steps; even a slow one does not take longer."""


class TrainingPanel:
    def __init__(self, session: Session) -> None:
        assert session.watch is not None
        self._session, self._watch = session, session.watch
        self._shown: Progress | None = None
        gui: Any = session.client.gui
        self._line = gui.add_markdown("")
        self._bar = gui.add_progress_bar(0.0)
        self._score = _chart(gui, "held-out score, dB", "#4dabf7")
        self._loss = _chart(gui, "loss (log)", "#ffa94d", log=True)
        self._pause = gui.add_button("Pause", icon="player-pause", color="gray")
        self._look = gui.add_button(
            "Show the newest", icon="eye", color="gray", hint="Asks the fit to save what it has now"
        )
        self._stop = gui.add_button("Stop here", icon="player-stop", color="red", hint="Leaves a usable avatar")
        self._pause.on_click(lambda _: self._toggle())
        self._look.on_click(lambda _: self._send("save"))
        self._stop.on_click(lambda _: self._send("stop"))

    def _toggle(self) -> None:
        self._send("continue" if self._watch.paused else "pause")

    def _send(self, command: Command) -> None:
        try:
            self._watch.send(command)
        except UserError as error:
            self._session.client.add_notification("The fit cannot be reached", str(error), color="red")

    def refresh(self) -> None:
        label = "Go on" if self._watch.paused else "Pause"
        if self._pause.label != label:
            self._pause.label, self._pause.icon = label, "player-pause" if label == "Pause" else "player-play"
        progress = self._watch.progress
        line = self._text(progress)
        if self._line.content != line:
            self._line.content = line
        if progress is self._shown:
            return
        self._shown = progress
        share = progress.step / progress.steps if progress.steps else 0.0
        self._bar.value = 100.0 * min(share, 1.0)
        for button in (self._pause, self._look, self._stop):
            button.visible = not progress.finished
        for chart, (steps, values) in ((self._score, progress.score), (self._loss, progress.loss)):
            if len(steps) >= 2:
                chart.data = (steps, values)
                chart.visible = True

    def _text(self, progress: Progress) -> str:
        parts = [f"step {progress.step} of {progress.steps}"]
        if len(progress.score[1]):
            parts.append(f"{progress.score[1][-1]:.2f} dB held out")
        if self._watch.problem is not None:
            parts.append(self._watch.problem)
        quiet = self._watch.quiet_seconds
        if self._watch.paused:
            parts.append("paused")
        elif quiet > QUIET_SECONDS and not progress.finished:
            parts.append(f"no news for {quiet / 60:.0f} min: it has probably ended")
        return " · ".join(parts)


def _chart(gui: Any, label: str, color: str, log: bool = False) -> Any:
    import viser.uplot

    return gui.add_uplot(
        (np.array([0.0, 1.0]), np.array([1.0, 1.0])),
        (viser.uplot.Series(label="step"), viser.uplot.Series(label=label, stroke=color, width=2)),
        scales={
            "x": viser.uplot.Scale(time=False, auto=True),
            "y": viser.uplot.Scale(auto=True, distr=3 if log else 1),
        },
        axes=(viser.uplot.Axis(stroke="#aaa"), viser.uplot.Axis(stroke="#aaa")),
        legend=viser.uplot.Legend(show=True),
        aspect=2.0,
        visible=False,
    )
