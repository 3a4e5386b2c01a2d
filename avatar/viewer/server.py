"""The web server: one session per browser tab, all drawn by one loop."""

from __future__ import annotations

import contextlib
import io
import socket
from typing import TYPE_CHECKING

from avatar.errors import UserError, one_line
from avatar.viewer import orbit
from avatar.viewer.door import LOCAL_NAMES, guarded_server
from avatar.viewer.panels import build_panels
from avatar.viewer.playback import Source
from avatar.viewer.render_loop import RenderLoop
from avatar.viewer.session import Session
from avatar.viewer.subject import Subject
from avatar.viewer.training import RunWatch

if TYPE_CHECKING:
    import viser

LOCALHOST = "127.0.0.1"
DEFAULT_PORT = 8080
PORTS_TRIED = 20
"""From the default on, when no port was asked for."""
ACCENT = (64, 132, 214)


class Viewer:
    """A running viewer; `stop` ends it."""

    def __init__(
        self, server: viser.ViserServer, address: str, subject: Subject, watch: RunWatch | None, source: Source | None
    ) -> None:
        self.server, self.address, self.subject, self.watch = server, address, subject, watch
        self.sessions: dict[int, Session] = {}
        self._source, self._loop = source, RenderLoop()
        server.on_client_connect(self._connect)
        server.on_client_disconnect(self._disconnect)
        if watch is not None:
            watch.start(subject)

    def _connect(self, client: viser.ClientHandle) -> None:
        session = Session(client, self.subject, self.watch)
        if self._source is not None:
            session.playback.load(self._source)
        client.camera.min_orbit_distance = orbit.NEAREST * session.depth
        client.camera.max_orbit_distance = orbit.FARTHEST * session.depth
        session.to_front()  # a browser may report its own default before it has read the server's
        with client.atomic():
            build_panels(session)
        self.sessions[client.client_id] = session
        self._loop.add(session)

    def _disconnect(self, client: viser.ClientHandle) -> None:
        session = self.sessions.pop(client.client_id, None)
        if session is not None:
            self._loop.remove(session)

    def stop(self) -> None:
        """Ends drawing, watching and serving."""
        self._loop.stop()
        if self.watch is not None:
            self.watch.stop()
        with contextlib.redirect_stdout(io.StringIO()):  # it says so on stdout
            self.server.stop()


def start_viewer(
    subject: Subject,
    host: str = LOCALHOST,
    port: int | None = None,
    watch: RunWatch | None = None,
    source: Source | None = None,
) -> Viewer:
    """Serves the viewer in threads of its own and returns.

    Args:
        host: the address to listen at; the default is reached from this machine only.
        port: None takes the first free one from 8080 on.
        watch: the run that is still being fitted.
        source: what each tab opens with, instead of the clip's own motion.
    Raises:
        UserError: viser is not installed, or the port is taken or not allowed.
    """
    try:
        import viser
    except ImportError:
        raise UserError("The viewer needs the package viser; install it with 'pip install viser'.") from None

    port = free_port(host, port)
    with guarded_server(local=host in LOCAL_NAMES), contextlib.redirect_stdout(io.StringIO()):  # it prints a table
        server = viser.ViserServer(host=host, port=port, verbose=False)
    # Its pages could ask for a tunnel through somebody else's server; a person's face stays here.
    server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
    server.scene.set_up_direction("+y")
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, control_width="medium", brand_color=ACCENT
    )
    server.gui.main_panel.dock_right()
    server.gui.set_panel_label(subject.name)
    _set_initial_camera(server, subject)
    return Viewer(server, f"http://{shown(host)}:{port}", subject, watch, source)


def shown(host: str) -> str:
    """The address as a browser takes it."""
    if host in (LOCALHOST, "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _set_initial_camera(server: viser.ViserServer, subject: Subject) -> None:
    avatar = subject.current[0]
    view = orbit.front(float(avatar.rest_pose("camera_from_head")[2, 3]))
    server.initial_camera.position = view.eye
    server.initial_camera.look_at = view.target
    server.initial_camera.up = (0.0, 1.0, 0.0)
    server.initial_camera.fov = orbit.field_of_view(avatar.camera, 1.0)


def free_port(host: str, port: int | None) -> int:
    """The port asked for, or the first free one from DEFAULT_PORT on.

    Raises:
        UserError: taken, not allowed, or an address that is not this machine's.
    """
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"--port {port} is out of range; choose 1 to 65535.")
    if not host:
        raise UserError(f"--host is empty; leave it out for this machine only ({LOCALHOST}), or name an address.")
    problem: OSError | None = None
    for candidate in [port] if port is not None else range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except OSError as error:
            problem = error
            if isinstance(error, socket.gaierror):
                raise UserError(f"--host {host} is no address of this machine ({one_line(error)}).") from None
    where = f"port {port}" if port is not None else f"ports {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1}"
    raise UserError(f"Cannot listen at {host}, {where} ({problem and one_line(problem)}); choose another with --port.")
