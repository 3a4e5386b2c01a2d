"""Who may come in: pages of the viewer's own, under a name of this machine.

Browsers let any page open a web socket to localhost, so without a check a page from elsewhere could watch the person
and upload files; the socket library asks nobody. The check is on the Origin and Host headers of each request.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
Answer = Callable[[Any, Any], Any]
"""Connection and request -> response, None to go on, or a promise of either."""


def is_welcome(origin: str | None, host: str | None, local: bool) -> bool:
    """Whether a request may be answered.

    Args:
        origin: the Origin header, which every browser sends with a web socket; None without.
        host: the Host header.
        local: only this machine is served, so only its own names are known (a foreign name that was made to point
            here would make a foreign page look like ours).
    """
    if host is None or (local and urlsplit(f"//{host}").hostname not in LOCAL_NAMES):
        return False
    return origin is None or urlsplit(origin).netloc == host


@contextmanager
def guarded_server(local: bool) -> Iterator[None]:
    """Web socket servers that start inside the block turn away who is not welcome; viser has no setting for it."""
    from websockets.asyncio import server

    serve = server.serve

    def guarded(*args: Any, process_request: Answer | None = None, **options: Any) -> Any:
        async def answer(connection: Any, request: Any) -> Any:
            if not is_welcome(request.headers.get("Origin"), request.headers.get("Host"), local):
                return connection.respond(HTTPStatus.FORBIDDEN, "This page is not for others.\n")
            given = None if process_request is None else process_request(connection, request)
            return await given if inspect.isawaitable(given) else given

        return serve(*args, process_request=answer, **options)

    server.serve = functools.wraps(serve)(guarded)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        server.serve = serve  # type: ignore[misc]
