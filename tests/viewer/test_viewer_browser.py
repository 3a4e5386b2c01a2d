"""The viewer in a real browser: it loads, a slider changes the picture, play moves it, tabs are independent."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avatar.conventions import BLENDSHAPE_INDEX
from avatar.viewer import Subject, Viewer, start_viewer

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # fmt: skip
PICTURE = {"x": 320, "y": 0, "width": 300, "height": 600}
"""The part of the page that shows nothing but the picture."""
PATIENCE = 120.0
"""Seconds until something that was asked for must have happened; a busy machine is slow, not wrong."""


@pytest.fixture()
def viewer(small_avatar, person) -> Iterator[Viewer]:
    running = start_viewer(Subject("someone", small_avatar, person[0]))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chromium(open_chromium) -> Iterator[Any]:
    running = open_chromium(FLAGS)
    yield running
    running.close()


@pytest.fixture()
def browser(chromium):
    """A window of its own, gone after the test: a tab left open would find its way to the next test's viewer."""
    context = chromium.new_context(viewport={"width": 1000, "height": 600})
    yield context
    context.close()


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute, of 255."""
    return float(np.abs(first - second).mean())


class Page:
    """One tab of the viewer."""

    def __init__(self, browser, viewer: Viewer) -> None:
        known = set(viewer.sessions)
        self.problems: list[str] = []
        self.page = browser.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(viewer.address)
        self.page.get_by_text("Gaussians").wait_for()
        (number,) = set(viewer.sessions) - known
        self.session = viewer.sessions[number]
        self.wait(lambda: self.session.drawn_side > 0 and self.shown().std() > 20)

    def wait(self, happened: Callable[[], bool]) -> None:
        """Until it happened; Playwright must be let to work meanwhile."""
        until = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < until, "waited in vain"
            self.page.wait_for_timeout(100)

    def shown(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=PICTURE))).convert("RGB"), np.float32)

    def settled(self) -> np.ndarray:
        """The picture when it no longer changes."""
        previous = self.shown()
        for _ in range(100):
            self.page.wait_for_timeout(300)
            now = self.shown()
            if difference(now, previous) < 0.02:
                return now
            previous = now
        raise AssertionError("the picture never came to rest")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def set_slider(self, label: str, value: float) -> None:
        """Types into the number beside a slider."""
        box = self.page.locator(f"xpath=//*[text()='{label}']/following::input[@type='text' or @inputmode][1]")
        box.fill(str(value))
        box.press("Enter")


def test_a_slider_changes_the_picture_and_reset_brings_it_back(viewer, browser) -> None:
    page = Page(browser, viewer)
    before = page.settled()
    page.tab("Face")
    page.page.get_by_text("Jaw and tongue").click()
    page.set_slider("open", 0.0)
    page.wait(lambda: page.session.shown_coefficients()[BLENDSHAPE_INDEX["jawOpen"]] == 0.0)
    page.wait(lambda: difference(page.shown(), before) > 1.0)
    edited = page.shown()
    page.page.get_by_role("button", name="Reset the face").click()
    page.wait(lambda: page.session.controls.edited is None)
    # not equal: on a busy machine the page itself is drawn more coarsely
    page.wait(lambda: difference(page.shown(), before) < 0.5 * difference(page.shown(), edited))
    assert page.problems == []


def test_mirrored_pairs_move_together_and_emotions_add(viewer, browser) -> None:
    page = Page(browser, viewer)
    page.tab("Face")
    page.page.get_by_text("Mouth corners").click()
    page.set_slider("smile", 0.6)
    left, right = BLENDSHAPE_INDEX["mouthSmileLeft"], BLENDSHAPE_INDEX["mouthSmileRight"]
    page.wait(lambda: page.session.shown_coefficients()[[left, right]].tolist() == pytest.approx([0.6, 0.6]))
    page.page.get_by_label("Both sides").uncheck()
    page.set_slider("smile right", 0.2)
    page.wait(lambda: page.session.shown_coefficients()[[left, right]].tolist() == pytest.approx([0.6, 0.2]))
    page.set_slider("Angry", 0.5)
    page.wait(lambda: page.session.controls.emotions == {"angry": 0.5})


def test_play_moves_the_picture_and_pause_holds_it(viewer, browser) -> None:
    page = Page(browser, viewer)
    before = page.settled()
    page.page.get_by_role("button", name="Play").click()
    page.wait(lambda: page.session.playback.playing)
    moved = []
    page.wait(lambda: moved.append(difference(page.shown(), before)) or max(moved) > 1.0)
    page.page.get_by_role("button", name="Pause").click()
    page.wait(lambda: not page.session.playback.playing)
    held = page.settled()
    page.page.wait_for_timeout(500)
    assert difference(page.shown(), held) < 0.5
    assert page.session.drawn_side > 500  # at rest as fine as the page


def test_tabs_are_independent_and_a_closed_one_is_forgotten(viewer, browser) -> None:
    first, second = Page(browser, viewer), Page(browser, viewer)
    before = second.settled()
    first.page.bring_to_front()
    first.tab("View")
    first.page.locator("xpath=//*[text()='Colours']/following::input[1]").click()
    first.page.get_by_role("option", name="branches").click()
    first.wait(lambda: first.session.overlay == "branches")
    first.page.get_by_role("tab", name="Play").click()
    first.page.get_by_label("Real frame").check()
    first.wait(lambda: first.session.compare)
    second.page.bring_to_front()
    assert (second.session.overlay, second.session.compare) == ("none", False)
    assert difference(second.settled(), before) < 0.5
    first.page.close()
    second.wait(lambda: list(viewer.sessions.values()) == [second.session])


def test_a_picture_can_be_saved(viewer, browser, small_avatar) -> None:
    page = Page(browser, viewer)
    page.tab("View")
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Save a picture").click()
    picture = np.asarray(Image.open(download.value.path()))
    assert download.value.suggested_filename == "someone.png"
    first = small_avatar.motion
    expected = small_avatar.render(first.coefficients[0], first.camera_from_head[0], first.camera_from_torso[0])
    assert np.array_equal(picture, expected)


def test_a_running_fit_shows_a_newer_avatar_in_every_tab(viewer, browser, small_avatar) -> None:
    page = Page(browser, viewer)
    before = page.settled()
    newer = small_avatar.load(saved(small_avatar, viewer))
    newer.model.branch("face").colors[:] = 0.5
    viewer.subject.replace(newer)
    page.wait(lambda: difference(page.shown(), before) > 1.0)


def saved(avatar, viewer: Viewer):
    """The avatar's file, so that it can be loaded as another one."""
    path = viewer.subject.capture.folder / "someone.avatar"
    avatar.save(path)
    return path


def test_pages_from_elsewhere_are_turned_away(viewer) -> None:
    """Asked as a browser asks, with nothing but a socket."""

    def status(host: str, origin: str | None, upgrade: bool = True) -> int:
        lines = [f"Host: {host}", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Version: 13"]
        lines += ["Upgrade: websocket", "Connection: Upgrade"] if upgrade else ["Connection: close"]
        lines += [] if origin is None else [f"Origin: {origin}"]
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(("\r\n".join(["GET / HTTP/1.1", *lines]) + "\r\n\r\n").encode())
            return int(connection.recv(64).split()[1])

    port = viewer.server.get_port()
    ours = f"localhost:{port}"
    assert status(ours, f"http://{ours}") == 101 and status(ours, None, upgrade=False) == 200
    assert status(f"127.0.0.1:{port}", f"http://127.0.0.1:{port}") == 101
    assert status(ours, "http://elsewhere.example") == 403 and status(ours, "null") == 403
    assert status(f"elsewhere.example:{port}", f"http://elsewhere.example:{port}") == 403
    assert status(f"elsewhere.example:{port}", None, upgrade=False) == 403
