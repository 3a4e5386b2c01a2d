"""The expression: emotions, and the 52 coefficients by region, mirrored pairs together unless asked otherwise."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

from avatar.conventions import BLENDSHAPE_INDEX, BLENDSHAPES
from avatar.viewer.controls import EMOTIONS

if TYPE_CHECKING:
    from avatar.viewer.session import Session

REGIONS: Final = {
    "Brows": ("brow",),
    "Eyelids": ("eyeBlink", "eyeSquint", "eyeWide"),
    "Gaze": ("eyeLook",),
    "Cheeks and nose": ("cheek", "nose"),
    "Jaw and tongue": ("jaw", "tongue"),
    "Mouth corners": ("mouthSmile", "mouthFrown", "mouthDimple", "mouthStretch", "mouthUpper", "mouthLower"),
    "Lips": ("mouth",),
}
"""Region -> beginnings of its coefficients' names; each coefficient belongs to the first region that fits."""
OPPOSITES: Final = (
    "jawLeft", "jawRight", "mouthLeft", "mouthRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight",
)  # fmt: skip
"""Left and right here are directions, or make a glance only together with their opposite: no mirrored pairs."""
HANDS_OFF_SECONDS = 0.6
"""A slider that was moved less long ago is not written to."""


def region_of(name: str) -> str:
    """The region of a coefficient."""
    return next(region for region, stems in REGIONS.items() if name.startswith(stems))


def mirrored(name: str) -> str | None:
    """The same coefficient of the other side; None without one."""
    if name in OPPOSITES:
        return None
    other = name[:-4] + "Right" if name.endswith("Left") else name[:-5] + "Left" if name.endswith("Right") else ""
    return other if other in BLENDSHAPE_INDEX else None


def label_of(name: str, together: bool) -> str:
    """``mouthSmileLeft`` -> ``smile left``, or ``smile`` where one slider moves both sides."""
    for stem in ("mouth", "eye", "brow", "jaw", "nose", "cheek"):
        if name.startswith(stem) and name != stem:
            name = name.removeprefix(stem)
            break
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return re.sub(r" (left|right)$", "", words) if together else words


class FacePanel:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._moved: dict[str, float] = {}
        gui: Any = session.client.gui
        gui.add_markdown("Feelings, on top of whatever plays")
        self._emotions = {n: gui.add_slider(n.capitalize(), 0.0, 1.0, 0.01, 0.0) for n in EMOTIONS}
        gui.add_divider()
        gui.add_markdown("The 52 coefficients, by region")
        self._together = gui.add_checkbox("Both sides", True, hint="One slider for left and right")
        self._within = gui.add_checkbox(
            "Stay in range", True, hint="Go little beyond what the clip showed of each coefficient"
        )
        reset = gui.add_button(
            "Reset the face", icon="refresh", color="gray", hint="Everything here back to what plays"
        )
        self._sliders: dict[str, Any] = {}
        for region in REGIONS:
            with gui.add_folder(region, expand_by_default=False):
                self._add_region(region)
        self._connect(reset)

    def _add_region(self, region: str) -> None:
        shown = self._session.shown_coefficients()
        gui: Any = self._session.client.gui
        names = [n for n in BLENDSHAPES if region_of(n) == region]
        for name in names:
            value = round(float(shown[BLENDSHAPE_INDEX[name]]), 2)
            slider = gui.add_slider(label_of(name, mirrored(name) is not None), 0.0, 1.0, 0.01, value, hint=name)
            slider.visible = not self._hidden(name)
            self._sliders[name] = slider
            slider.on_update(lambda event, name=name: event.client is not None and self._slid(name))
        reset = gui.add_button("Reset", icon="refresh", color="gray", hint="These back to what plays")
        reset.on_click(lambda _: self._reset(names))

    def _hidden(self, name: str) -> bool:
        return self._together.value and name.endswith("Right") and mirrored(name) is not None

    def _connect(self, reset: Any) -> None:
        for name, slider in self._emotions.items():
            slider.on_update(lambda event, name=name: event.client is not None and self._felt(name))

        @self._together.on_update
        def _(_) -> None:
            with self._session.client.atomic():
                for name, slider in self._sliders.items():
                    if mirrored(name) is not None:
                        slider.visible = not self._hidden(name)
                        slider.label = label_of(name, self._together.value)

        @self._within.on_update
        def _(_) -> None:
            self._session.change(within=bool(self._within.value))

        @reset.on_click
        def _(_) -> None:
            for slider in self._emotions.values():
                slider.value = 0.0
            self._moved.clear()
            self._session.change(edited=None, emotions={})

    def _felt(self, name: str) -> None:
        emotions = {**self._session.controls.emotions, name: float(self._emotions[name].value)}
        self._session.change(emotions=emotions)

    def _slid(self, name: str) -> None:
        value, other = float(self._sliders[name].value), mirrored(name)
        names = [name, other] if self._together.value and other is not None else [name]
        self._moved |= dict.fromkeys(names, time.monotonic())
        self._session.edit({BLENDSHAPE_INDEX[n]: value for n in names})

    def _reset(self, names: list[str]) -> None:
        playback = self._session.playback
        plays = playback.pose(playback.seconds).coefficients
        for name in names:
            self._moved.pop(name, None)
        self._session.edit({BLENDSHAPE_INDEX[n]: float(plays[BLENDSHAPE_INDEX[n]]) for n in names})

    def refresh(self) -> None:
        """The sliders show what is shown, except the one under the mouse."""
        shown, now = self._session.shown_coefficients(), time.monotonic()
        with self._session.client.atomic():
            for name, slider in self._sliders.items():
                value = round(float(shown[BLENDSHAPE_INDEX[name]]), 2)
                untouched = now - self._moved.get(name, 0.0) > HANDS_OFF_SECONDS
                if slider.visible and untouched and slider.value != value:
                    slider.value = value
