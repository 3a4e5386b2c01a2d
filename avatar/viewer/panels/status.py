"""The line above the tabs: how many Gaussians, how large and how fast they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar.viewer.session import Session


class StatusPanel:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._line = session.client.gui.add_markdown(self._text())

    def refresh(self) -> None:
        text = self._text()
        if text != self._line.content:
            self._line.content = text

    def _text(self) -> str:
        session = self._session
        count = f"{session.avatar.model.count:,}".replace(",", " ")  # a thin space
        speed = f"{session.frames_per_second:.0f} pictures/s" if session.frames_per_second >= 1 else "still"
        return f"{count} Gaussians · {session.drawn_side} px · {speed}"
