"""`avatar play` serves the folder, the whole folder and nothing but the folder, to this machine alone."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from avatar.errors import UserError
from avatar.export.serve import PlayerServer, player_server


@pytest.fixture()
def served(tmp_path) -> Iterator[PlayerServer]:
    folder = tmp_path / "player"
    (folder / "modules").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": "avatar-player"}')
    (folder / "index.html").write_text("<p>hello")
    (folder / "modules" / "a.js").write_text("1")
    (folder / "runtime.wasm").write_bytes(b"\0asm")
    (folder / ".hidden").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "player-other").mkdir()
    (tmp_path / "player-other" / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    server = player_server(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server: PlayerServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"localhost:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers.get("Content-Type", "")


def test_files_of_the_folder_are_served_with_their_types(served):
    assert ask(served, "/") == (200, b"<p>hello", "text/html; charset=utf-8")
    assert ask(served, "/index.html?resolution=256")[0] == 200
    assert ask(served, "/modules/a.js")[2].startswith("text/javascript")
    assert ask(served, "/runtime.wasm")[2] == "application/wasm"
    assert ask(served, "/index.html", method="HEAD")[:2] == (200, b"")


@pytest.mark.parametrize("path", [
    "/../secret.txt", "/modules/../../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "//secret.txt",
    "/link.txt", "/.hidden", "/modules/", "/modules", "/nothing", "/../player-other/secret.txt", "/..\\secret.txt",
    "/index.html%00.js",
])  # fmt: skip
def test_nothing_else_is(served, path):
    status, body, _ = ask(served, path)
    assert status == 404 and body == b""


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost:1", "localhost", "127.0.0.1.evil.example"]
)
def test_foreign_hosts_get_nothing(served, host):
    status, body, _ = ask(served, "/index.html", host)
    assert status == 403 and body == b""


def test_writing_is_not_understood(served):
    assert ask(served, "/index.html", method="POST")[0] == 501


def test_it_listens_on_this_machine_only(served):
    assert served.server_address[0] == "127.0.0.1"


def test_what_is_no_player_is_not_served(tmp_path, served):
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "a.txt").write_text("x")
    for folder in (tmp_path / "diary", tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(UserError, match="avatar export"):
            player_server(folder, 0)
    with pytest.raises(UserError, match="--port"):
        player_server(served.folder, served.server_port)


def test_pages_are_served_by_name(tmp_path, served):
    with player_server(served.folder / "index.html", 0) as server:
        assert (server.folder, server.start, server.start_only) == (served.folder, "index.html", False)
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.html").write_text("<p>a")
    (folder / "diary.txt").write_text("secret")
    with player_server(folder, 0) as server:
        assert server.start == "a.html"
    (folder / "b.html").write_text("<p>b")
    with pytest.raises(UserError, match=r"several pages; name one of them, .*: avatar play .*a\.html"):
        player_server(folder, 0)
    with player_server(folder / "b.html", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask(server, "/")[:2] == ask(server, "/b.html")[:2] == (200, b"<p>b")
        assert ask(server, "/a.html")[0] == ask(server, "/diary.txt")[0] == 404  # what only lies beside it
        server.shutdown()


@pytest.mark.parametrize(("error", "told"), [(BrokenPipeError, 0), (ConnectionResetError, 0), (ValueError, 1)])
def test_a_browser_that_goes_away_is_not_told(served, capsys, error, told):
    try:
        raise error("gone")
    except error:
        served.handle_error(None, ("127.0.0.1", 1))
    assert capsys.readouterr().err.count("Traceback") == told
