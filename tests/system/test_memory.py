"""Memory as the system tells it."""

from __future__ import annotations

import os
import platform
import subprocess
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


FAULTS = """
import resource
{before}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
begun = faults()
for _ in range(10):
    b"1" * 2**26
print(kept, faults() - begun)
"""
NOTHING = "kept = False"
KEEP = "from dinov3.system import memory; kept = memory.keep_freed_memory()"
TRAIN = "from dinov3.distributed import context; kept = context.setup('cpu').type"
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def faults(before: str, **env: str) -> tuple[str, int]:
    """What ``kept`` is in a fresh process after ``before``, and the pages that had to be made for ten blocks of 64 MiB one after another."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "MALLOC_"))}
    words = [sys.executable, "-c", FAULTS.format(before=before)]
    said = subprocess.run(words, env=clean | env, check=True, capture_output=True, text=True).stdout.split()
    return said[0], int(said[1])


@needs_glibc
def test_a_process_that_trains_on_a_cpu_does_not_have_the_pages_of_its_tensors_made_anew() -> None:
    pages_of_a_block = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults(NOTHING)[1] > 9 * pages_of_a_block
    assert faults(KEEP)[0] == "True"
    assert faults(TRAIN)[1] < 2 * pages_of_a_block


@needs_glibc
def test_who_says_in_the_environment_how_memory_is_allocated_is_left_alone() -> None:
    assert faults(KEEP, GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")[0] == "False"
    assert faults(KEEP, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
