"""How it is looked at, and what is kept of it: overlays, the clip's own view, pictures and videos to save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avatar.errors import UserError
from avatar.viewer.picture import OVERLAYS
from avatar.viewer.saving import LONGEST_SECONDS, snapshot, video

if TYPE_CHECKING:
    from avatar.viewer.session import Session


class ViewPanel:
    def __init__(self, session: Session) -> None:
        self._session = session
        own = session.avatar.camera.width
        gui: Any = session.client.gui
        front = gui.add_button(
            "The clip's view", icon="camera", color="gray", hint="Drag the picture to turn, scroll to come closer"
        )
        overlay = gui.add_dropdown("Colours", OVERLAYS, hint="Which Gaussian belongs to what, or follows what")
        gui.add_divider()
        self._size = gui.add_dropdown("Size", tuple(str(own * k) for k in (1, 2) if own * k <= 2048), hint="px")
        picture = gui.add_button("Save a picture", icon="photo", color="gray")
        self._video = gui.add_button(
            "Save a video",
            icon="movie",
            color="gray",
            hint=f"Of what plays, from its start, at most {LONGEST_SECONDS:.0f} s",
        )
        self._progress = gui.add_progress_bar(0.0, visible=False)

        front.on_click(lambda _: session.to_front())
        picture.on_click(lambda _: self._save_picture())
        self._video.on_click(lambda _: self._save_video())

        @overlay.on_update
        def _(_) -> None:
            session.overlay = overlay.value
            session.touched()

    def _save_picture(self) -> None:
        session = self._session
        session.client.send_file_download(
            f"{session.subject.name}.png", snapshot(session, int(self._size.value)), save_immediately=True
        )

    def _save_video(self) -> None:
        session = self._session
        self._video.disabled, self._progress.visible = True, True
        try:
            content = video(session, int(self._size.value), self._advance)
            session.client.send_file_download(f"{session.subject.name}.mp4", content, save_immediately=True)
        except UserError as error:
            session.client.add_notification("No video", str(error), color="red")
        finally:
            self._video.disabled, self._progress.visible = False, False

    def _advance(self, share: float) -> None:
        self._progress.value = 100.0 * share

    def refresh(self) -> None:
        pass
