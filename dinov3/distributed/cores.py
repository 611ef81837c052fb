"""How many processor cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that the scheduler or the user left to this process, at least 1; all there are where none can be left out."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
