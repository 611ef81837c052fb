"""Ends a process that hangs, and says where: the stack of every thread, and what it was doing."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dinov3.distributed.context import rank
from dinov3.system.errors import EXIT_HANG
from dinov3.system.files import open_unlinked

# Seconds after which the interpreter itself is taken to be stuck (a C function that never lets go of Python's lock, so
# that no thread of ours can run): faulthandler's own thread then prints the stacks and ends the process, with code 1.
GRACE = 30.0
LINGER = 3.0  # seconds between the report and the end: the other processes, a moment behind, report too
REARM = 10.0  # seconds; setting it up anew starts a thread, too dear for every step


class Watchdog:
    """A thread that expects ``beat`` to be called often enough; otherwise it ends the process with code 79.

    Every process has one, so a process that waits for a stalled one in a collective ends at the same time.
    ``seconds``: the usual limit; ``slow_seconds``: for things that take long.
    """

    def __init__(self, folder: Path, *, seconds: float, slow_seconds: float) -> None:
        self.folder, self.seconds, self.slow_seconds = folder, seconds, max(seconds, slow_seconds)
        self._what: Callable[[], str] = lambda: "starting"
        self._limit, self._deadline, self._armed = self.slow_seconds, 0.0, (0.0, 0.0)
        self._closed = threading.Event()
        self.beat("starting", slow=True)
        self._thread = threading.Thread(target=self._watch, name="dinov3-watchdog", daemon=True)
        self._thread.start()

    def beat(self, what: str | Callable[[], str], *, slow: bool = False) -> None:
        """Something was finished; ``what`` comes next."""
        self._what = what if callable(what) else lambda: what
        self._limit = self.slow_seconds if slow else self.seconds
        now = time.monotonic()
        self._deadline = now + self._limit
        if self._limit != self._armed[1] or now - self._armed[0] > REARM:
            faulthandler.dump_traceback_later(self._limit + GRACE, exit=True, file=sys.__stderr__ or 2)
            self._armed = (now, self._limit)

    def close(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() > self._deadline:
                self._end()

    def _end(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"process-{rank()}.txt"
        with os.fdopen(open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
            for out in (file, sys.__stderr__):
                if out is None:
                    continue
                print(f"error: process {rank()} has hung for {self._limit:g} s; stacks:", file=out, flush=True)
                faulthandler.dump_traceback(out, all_threads=True)
            for out in (file, sys.__stderr__):
                if out is not None:
                    print(f"process {rank()}: {self._what()}", file=out, flush=True)
        time.sleep(LINGER)
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(EXIT_HANG)
