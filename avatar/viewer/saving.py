"""Pictures and videos of what a tab shows, drawn anew at the size asked for."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError
from avatar.media import write_video
from avatar.viewer import orbit
from avatar.viewer.picture import draw

if TYPE_CHECKING:
    from avatar.viewer.session import Session

LONGEST_SECONDS = 60.0


def snapshot(session: Session, side: int) -> bytes:
    """A PNG of the avatar as it is now, without what is around it on the page."""
    eye = orbit.view_from_camera(session.view(), session.depth)
    buffer = io.BytesIO()
    Image.fromarray(draw(session.avatar, session.pose(), eye, side, session.overlay)).save(buffer, "PNG")
    return buffer.getvalue()


def video(session: Session, side: int, advance: Callable[[float], None]) -> bytes:
    """An MP4 of what plays, from its start, with the controls, the view and the colours as they are now.

    Args:
        advance: is told the share that is done, 0..1.
    Raises:
        UserError: what plays does not move.
    """
    source, controls, avatar = session.playback.source, session.controls.changed(edited=None), session.avatar
    seconds = min(source.seconds, LONGEST_SECONDS)
    if seconds <= 0:
        raise UserError("Choose a motion to play first: a still person makes no video.")
    rate = min(avatar.metadata.fps, 30.0)
    times = np.arange(max(int(seconds * rate), 1)) / rate
    eye = orbit.view_from_camera(session.view(), session.depth)

    def pictures() -> Iterator[np.ndarray]:
        for i, t in enumerate(times):
            yield draw(avatar, session.applied(controls, float(t)), eye, side, session.overlay)
            advance((i + 1) / len(times))

    audio = None if source.audio is None else source.audio[: round(len(times) / rate * SAMPLE_RATE)]
    with tempfile.TemporaryDirectory(prefix="avatar-view-") as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, pictures(), rate, audio=audio)
        return path.read_bytes()
