"""Stage 9: an avatar in the browser, drawn here and sent as pictures, with everything that moves it in a side panel.

From the data to the page: `subject` is what is looked at, `playback` the motion that plays, `controls` what sliders
and handles add to it, `orbit` the browser's camera, `picture` one drawing, `render_loop` the thread that draws,
`session` one browser tab, `panels` its side panel, `server` the web server.
"""

from __future__ import annotations

from avatar.viewer.server import Viewer, start_viewer
from avatar.viewer.subject import Subject
from avatar.viewer.training import RunWatch

__all__ = ["RunWatch", "Subject", "Viewer", "start_viewer"]
