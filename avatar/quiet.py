"""Silence for native libraries that print on stderr past Python, which would tear progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_native_stderr(active: bool = True) -> Iterator[None]:
    """Sends file descriptor 2 to nowhere for the duration; does nothing where there is none or `active` is False.

    MediaPipe's start-up chatter has no switch that silences all of it.
    """
    try:
        if active:
            sys.stderr.flush()
        saved = os.dup(2) if active else None
    except (OSError, ValueError, AttributeError):  # closed or replaced stderr
        saved = None
    if saved is None:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
