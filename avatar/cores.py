"""How many cores there are to use, and with how many threads."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores this process may run on; containers often show all of the host's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads() -> int:
    """Threads to compute with: one per usable core, or fewer where OMP_NUM_THREADS asks for fewer."""
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    return min(usable_cores(), int(asked)) if asked.isdecimal() and int(asked) > 0 else usable_cores()
