"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may run on: fewer than the machine's under ``taskset``, cgroups with cpusets, or SLURM."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_workers(wanted: int) -> int:
    """At most one loader process a core of this training process; the batches do not depend on their number."""
    return min(wanted, max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
