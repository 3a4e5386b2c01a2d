"""`avatar play`: one exported folder on localhost, and nothing else to nobody else.

A request must name this machine in its Host header (otherwise a web page elsewhere could read the folder through a
name that it points at localhost: DNS rebinding), and a file that lies inside the folder.
"""

from __future__ import annotations

import posixpath
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from avatar.errors import UserError, one_line
from avatar.export.manifest import is_player

HOST: Final = "127.0.0.1"
_HOST_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json", ".wasm": "application/wasm", ".png": "image/png",
    ".md": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
_POLICY: Final = (
    "default-src 'self' blob: data:; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
"""What the page may load: only what it came with. An exported folder needs no more on any host."""


class PlayerServer(ThreadingHTTPServer):
    """Serves the files of one folder, or of a folder that is no player one page."""

    daemon_threads = True

    def __init__(self, folder: Path, start: str, port: int) -> None:
        self.folder = folder.resolve()
        self.start = start
        self.start_only = not is_player(folder)  # a page of one file needs none of what lies beside it
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says what went wrong, unless it is only a browser that went away in the middle of a file."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PlayerServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if not self._is_for_here():
            return self._send(HTTPStatus.FORBIDDEN, b"", "text/plain", with_body)
        path = self._file()
        if path is None:
            return self._send(HTTPStatus.NOT_FOUND, b"", "text/plain", with_body)
        return self._send(
            HTTPStatus.OK, path.read_bytes(), _TYPES.get(path.suffix, "application/octet-stream"), with_body
        )

    def _is_for_here(self) -> bool:
        name, _, port = (self.headers.get("Host") or "").rpartition(":")
        return name in _HOST_NAMES and port == str(self.server.server_port)

    def _file(self) -> Path | None:
        """The file that a request names; None for anything outside the folder, hidden, or no file."""
        asked = unquote(urlsplit(self.path).path)
        relative = posixpath.normpath(asked).lstrip("/") if asked != "/" else self.server.start
        if "\0" in asked or "\\" in asked or any(part.startswith(".") for part in asked.split("/")):
            return None
        if self.server.start_only and relative != self.server.start:
            return None
        path = (self.server.folder / relative).resolve()  # also follows links, so that none leads outside
        return path if path.is_relative_to(self.server.folder) and path.is_file() else None

    def _send(self, status: HTTPStatus, body: bytes, kind: str, with_body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The terminal stays quiet."""


def player_server(exported: Path, port: int) -> PlayerServer:
    """A server that is bound and not yet running.

    Args:
        exported: the folder of a player, a page in it, a page of one file, or a folder with one of these.
        port: 0 takes any free one.
    Raises:
        UserError: not what was exported, or the port is taken.
    """
    folder, start = _start_page(exported)
    try:
        return PlayerServer(folder, start, port)
    except (OSError, OverflowError) as error:
        raise UserError(f"Port {port} cannot be used ({one_line(error)}); choose another with --port.") from None


def _start_page(exported: Path) -> tuple[Path, str]:
    """The folder to serve and its page to open."""
    if exported.suffix == ".html" and exported.is_file():
        return exported.parent, exported.name
    if is_player(exported):
        return exported, "index.html"
    pages = sorted(exported.glob("*.html")) if exported.is_dir() else []
    if len(pages) > 1:
        raise UserError(f"{exported} holds several pages; name one of them, for example: avatar play {pages[0]}")
    if not pages:
        raise UserError(f"{exported} is not an exported player; make one with: avatar export NAME.avatar -o {exported}")
    return exported, pages[0].name
