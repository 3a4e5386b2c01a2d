"""What moves the avatar: the clip's own motion, a track, or speech; play, pause, scrub, compare."""

from __future__ import annotations

import base64
import io
import time
import wave
from typing import TYPE_CHECKING, Any

import numpy as np

from avatar.conventions import SAMPLE_RATE
from avatar.errors import UserError
from avatar.viewer.playback import Source
from avatar.viewer.sources import clip_source, rest_source, uploaded_source

if TYPE_CHECKING:
    from avatar.viewer.session import Session

SOUND_SLACK, SOUND_PATIENCE = 0.04, 5.0
"""Seconds: a sound less late than the first is left alone (a jump could be heard); more than the second is a clock that
goes wrong."""


class PlayPanel:
    def __init__(self, session: Session) -> None:
        self._session = session
        source = session.playback.source
        gui: Any = session.client.gui
        self._sources: dict[str, Source] = {"rest": rest_source(session.avatar)}
        if (clip := clip_source(session.avatar, session.subject.capture)) is not None:
            self._sources["the clip"] = clip
        self._sources[source.name] = source
        self._play = gui.add_button("Play", icon="player-play", color="blue")
        self._at = gui.add_slider("Time", 0.0, max(source.seconds, 0.01), 0.01, 0.0, hint="seconds")
        self._choice = gui.add_dropdown("Motion", tuple(self._sources), initial_value=source.name)
        self._upload = gui.add_upload_button(
            "Open speech or motion …",
            icon="upload",
            color="gray",
            hint="A sound file that the avatar says, or a motion track: Live Link Face CSV, or JSON",
        )
        self._loop = gui.add_checkbox("Loop", session.playback.loop)
        self._sound = gui.add_checkbox("Sound", True)
        self._compare = gui.add_checkbox(
            "Real frame",
            False,
            visible=session.subject.capture is not None,
            hint="Beside the avatar, the clip's own frame at the same time",
        )
        self._player = gui.add_html("")
        self._heard: tuple[Any, ...] | None = None
        self._last_seconds = 0.0
        self._connect()
        self._fit_to_source()

    def _connect(self) -> None:
        session, playback = self._session, self._session.playback

        @self._choice.on_update
        def _(event) -> None:
            if event.client is not None:
                self.load(self._sources[self._choice.value])

        @self._upload.on_upload
        def _(_) -> None:
            self._open(self._upload.value.name, self._upload.value.content)

        @self._play.on_click
        def _(_) -> None:
            if playback.playing:
                playback.pause()
            else:
                session.change(edited=None)
                playback.play()
            session.touched()

        @self._at.on_update
        def _(event) -> None:
            if event.client is not None:
                session.change(edited=None)
                playback.seek(self._at.value)
                self._heard = None  # the sound goes on from there

        @self._loop.on_update
        def _(_) -> None:
            playback.loop = self._loop.value

        @self._compare.on_update
        def _(_) -> None:
            session.compare = self._compare.value
            session.touched()

    def load(self, source: Source) -> None:
        """Makes a source the one that plays, paused at its start."""
        self._sources[source.name] = source
        self._choice.options = tuple(self._sources)
        self._choice.value = source.name
        self._session.playback.load(source)
        self._session.change(edited=None)
        self._fit_to_source()

    def _fit_to_source(self) -> None:
        source = self._session.playback.source
        self._at.value = 0.0
        self._at.max = max(round(source.seconds, 2), 0.01)
        moves = source.seconds > 0
        self._at.disabled = self._play.disabled = not moves
        self._sound.visible = source.audio is not None

    def _open(self, name: str, content: bytes) -> None:
        client = self._session.client
        notice = client.add_notification(f"Opening {name}", "", loading=True, with_close_button=False)
        try:
            self.load(uploaded_source(self._session.avatar, name, content))
        except UserError as error:
            client.add_notification("That cannot be played", str(error), color="red")
        finally:
            notice.remove()

    def refresh(self) -> None:
        playback = self._session.playback
        seconds, playing = playback.seconds, playback.playing
        label = "Pause" if playing else "Play"
        if self._play.label != label:
            self._play.label, self._play.icon = label, "player-pause" if playing else "player-play"
        if playing:
            self._at.value = min(round(seconds, 2), self._at.max)
        self._refresh_sound(seconds, playing)

    def _refresh_sound(self, seconds: float, playing: bool) -> None:
        """Starts the browser's sound from here when playing began, jumped or looped; silence otherwise."""
        source = self._session.playback.source
        looped = seconds < self._last_seconds
        self._last_seconds = seconds
        audible = playing and self._sound.value and source.audio is not None
        wanted = (source.name,) if audible else None
        if wanted == self._heard and not (audible and looped):
            return
        self._heard = wanted
        if wanted is not None and source.audio is not None:
            self._player.content = audio_element(source.audio[round(seconds * SAMPLE_RATE) :])
        else:
            self._player.content = ""


def audio_element(samples: np.ndarray) -> str:
    """HTML that plays mono samples (-1..1, at SAMPLE_RATE) once, without anything to see.

    The first sample belongs to this moment: a browser that gets going later skips what it missed, as far as its clock
    can be trusted (the page is most often looked at on this machine)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    started = round(time.time() * 1000)
    catch_up = (
        f"const now = (Date.now() - {started}) / 1000, late = now - this.currentTime, tries = +this.dataset.tries || 0;"
        f"if (tries &lt; 3 &amp;&amp; late &gt; {SOUND_SLACK} &amp;&amp; late &lt; {SOUND_PATIENCE})"
        " { this.dataset.tries = tries + 1; this.currentTime = now; }"
    )
    return f'<audio autoplay onplaying="{catch_up}" src="data:audio/wav;base64,{data}"></audio>'
