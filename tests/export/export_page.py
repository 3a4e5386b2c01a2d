"""A page of the player in a browser, served by `avatar play`'s own server."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import numpy as np

from avatar.export.serve import player_server
from avatar.types import Motion

FLAGS = (
    "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", "--force-device-scale-factor=1",
)  # fmt: skip
_DRAW = """async ([coefficients, head, torso, transparent]) => {
  const player = document.querySelector("avatar-player");
  player.renderer.transparent = transparent;
  await player.draw({ coefficients, poses: { head, torso } });
  const pixels = player.renderer.pixels();
  player.renderer.transparent = false;
  let text = "";
  for (let i = 0; i < pixels.length; i += 8192) text += String.fromCharCode(...pixels.subarray(i, i + 8192));
  return [player.canvas.width, player.canvas.height, btoa(text)];
}"""


class Page:
    """One open page; `js` runs an expression or function in it with `player` as the component."""

    def __init__(self, browser: Any, folder: Path, path: str = "index.html?idle=off", **options: Any) -> None:
        self.server = player_server(folder, 0)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.context = browser.new_context(viewport={"width": 900, "height": 640}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(path if "://" in path else self.address + path)

    def js(self, body: str, argument: Any = None) -> Any:
        """Runs the body of an async function of (player, argument)."""
        text = f"async ([argument, player]) => {{ {body} }}"
        late = "new Promise((_, fail) => setTimeout(() => fail(new Error('nothing happened for 20 s')), 20000))"
        call = f"(argument) => Promise.race([({text})([argument, document.querySelector('avatar-player')]), {late}])"
        return self.page.evaluate(call, argument)

    def until(self, condition: str) -> None:
        """Waits for an expression of `player` to be true, at most 20 s."""
        wait = "await new Promise((resolve) => setTimeout(resolve, 10))"
        self.js(f"const end = performance.now() + 20000; while (!({condition}) && performance.now() < end) {wait}")

    def ready(self) -> None:
        self.js("await player.ready")

    def draw(self, motion: Motion, index: int, transparent: bool = False) -> np.ndarray:
        """Frame `index` of a motion as RGBA uint8, drawn with its exact depth order."""
        poses = (motion.camera_from_head[index, :3].ravel(), motion.camera_from_torso[index, :3].ravel())
        argument = [motion.coefficients[index].tolist(), poses[0].tolist(), poses[1].tolist(), transparent]
        width, height, text = self.page.evaluate(_DRAW, argument)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)

    def close(self) -> None:
        self.context.close()
        self.server.shutdown()
        self.server.server_close()
