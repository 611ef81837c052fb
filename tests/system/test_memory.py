"""Memory as the system tells it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from dinov3.system import memory
from dinov3.system.memory import PeakMemory, available_memory


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 2000000 kB\n", "/sys/fs/cgroup/memory.max": "1000000\n"}
    monkeypatch.setattr(memory, "_text", lambda path: files.get(str(path), ""))
    assert available_memory() == 1_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert available_memory() == 2_048_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_what_a_block_had_at_most_is_seen_also_when_it_was_free_before() -> None:
    size = 64 * 2**20
    for _ in range(2):
        with PeakMemory() as peak:
            taken = np.ones(size, dtype=np.uint8)
            while peak.grown is None and peak._peak - peak._before < size:
                pass  # the watcher looks every 2 ms
            del taken
        assert peak.grown is not None
        assert size <= peak.grown < 1.5 * size
