"""How many cores there are to use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores this process may run on; containers often show all of the host's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
