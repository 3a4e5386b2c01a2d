"""The one thread that draws for all tabs, in turn: two drawings at once would only fight over the cores."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol, runtime_checkable

IDLE_SECONDS = 0.02
"""Sleep when no tab had anything to draw."""
FASTEST_SECONDS = 1 / 30
"""Least time between two pictures of a tab: more than 30 a second look no smoother and heat the machine."""
REFRESH_SECONDS = 0.2
"""Between two updates of a tab's numbers and sliders."""


@runtime_checkable
class Tab(Protocol):
    """What the loop needs of a browser tab."""

    def draw_if_needed(self) -> bool:
        """Draws and sends a picture if anything changed; says whether it did."""
        ...

    def refresh(self) -> None:
        """Brings the side panel up to date."""
        ...


class RenderLoop:
    """Draws for the tabs that were added, until `stop`. A tab that fails is dropped, the others go on."""

    def __init__(self) -> None:
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._tabs: dict[Tab, list[float]] = {}  # tab -> when it may draw again, when it is to be refreshed
        self._thread = threading.Thread(target=self._run, name="viewer drawing", daemon=True)
        self._thread.start()

    def add(self, tab: Tab) -> None:
        with self._lock:
            self._tabs[tab] = [0.0, 0.0]

    def remove(self, tab: Tab) -> None:
        with self._lock:
            self._tabs.pop(tab, None)

    def stop(self) -> None:
        """Ends the thread after the picture it is at."""
        self._stopped.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                tabs = list(self._tabs.items())
            busy = False
            for tab, due in tabs:
                try:
                    busy |= self._serve(tab, due)
                except Exception:  # a fault while drawing for one tab must not end the others
                    logging.getLogger(__name__).exception("a viewer tab failed and gets no more pictures")
                    self.remove(tab)
            if not busy:
                self._stopped.wait(IDLE_SECONDS / 4)

    def _serve(self, tab: Tab, due: list[float]) -> bool:
        now = time.monotonic()
        drew = False
        if now >= due[0]:
            drew = tab.draw_if_needed()
            # after an idle spell the next picture may come at once; in motion the beat is kept
            due[0] = max(due[0] + FASTEST_SECONDS, now) if drew else now + IDLE_SECONDS / 2
        if now >= due[1]:
            tab.refresh()
            due[1] = now + REFRESH_SECONDS
        return drew
