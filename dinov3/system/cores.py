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


def load_on_cores() -> str:
    """Said when more programs want the machine than one run has: then no key helps. Empty where the system does not tell."""
    all_of_them = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= 2 * all_of_them:
        return ""
    return f"; the machine has a load of {load:.1f} on {all_of_them} cores: other programs want them, too"
