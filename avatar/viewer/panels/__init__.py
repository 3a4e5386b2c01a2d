"""The side panel: one module per tab. A panel is built once per browser tab and brought up to date by `refresh`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avatar.viewer.panels.face import FacePanel
from avatar.viewer.panels.head import HeadPanel
from avatar.viewer.panels.play import PlayPanel
from avatar.viewer.panels.status import StatusPanel
from avatar.viewer.panels.training import TrainingPanel
from avatar.viewer.panels.view import ViewPanel

if TYPE_CHECKING:
    from avatar.viewer.session import Session

__all__ = ["build_panels"]


def build_panels(session: Session) -> None:
    """Fills the side panel of a session's browser tab."""
    gui: Any = session.client.gui
    session.panels = [StatusPanel(session)]
    tabs = gui.add_tab_group()
    kinds = [("Play", PlayPanel), ("Face", FacePanel), ("Head", HeadPanel), ("View", ViewPanel)]
    if session.watch is not None:
        kinds.append(("Training", TrainingPanel))
    for label, kind in kinds:
        with tabs.add_tab(label):
            session.panels.append(kind(session))
