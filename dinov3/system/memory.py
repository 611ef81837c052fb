"""Memory of this machine and of this process."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

UNKNOWN = 2**62
EVERY = 0.002  # seconds between two looks
TRIM, MMAP = -1, -3  # names of mallopt's numbers in malloc.h
FROM_THE_SYSTEM, GIVEN_BACK = 2**30, 2**31 - 1  # bytes of one block, of what is free at the end of the heap


def available_memory() -> int:
    """Bytes that programs can still have, or the limit of the container or job if that is lower; UNKNOWN where the system does
    not tell."""
    available = {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in _text(Path("/proc/meminfo")).splitlines())
    }.get("MemAvailable", UNKNOWN)
    limit = _text(Path("/sys/fs/cgroup/memory.max")).strip()
    return min(available, int(limit)) if limit.isdigit() else available


class PeakMemory:
    """``grown``: bytes by which the process's resident memory was larger inside the block than before it; None where the system
    does not tell. What is free inside the process is given back first, else it would be used up unseen."""

    def __init__(self) -> None:
        self.grown: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            _give_back()
            self._before = self._peak = resident()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform == "linux":
            self._stop.set()
            self._thread.join()
            self.grown = self._peak - self._before

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self._peak = max(self._peak, resident())


def resident() -> int:
    """Bytes of this process that are in memory now. Linux."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def keep_freed_memory() -> bool:
    """Whether large blocks that are freed now stay in this process, for the next ones of their size: with glibc, unless the
    environment says how it allocates.

    By itself glibc fetches every block above 32 MiB from the system and gives it back when it is freed, and each of its pages is
    then made, and cleared, anew: 1.86 million in four steps of a ViT-S on 8 images, where 0.87 were left with blocks kept, and
    processor time fell from 99.8 and 94.1 s to 89.6 and 92.5. In bf16, in turns on two idle cores, such a step took 4.07, 4.23 and 4.29 s
    where it took 4.23, 4.77 and 4.37; the peak rose from 3.14 to 3.23 GiB (medians).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None or any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    return bool(set_option(MMAP, FROM_THE_SYSTEM)) and bool(set_option(TRIM, GIVEN_BACK))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
