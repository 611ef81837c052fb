"""Ends a process that hangs, and says where: the stack of every thread, and what it was doing."""

from __future__ import annotations

import faulthandler
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from dinov3.distributed.context import rank
from dinov3.runs import guard
from dinov3.system.errors import EXIT_HANG
from dinov3.system.files import open_unlinked
from dinov3.system.leaving import leave_at_once
from dinov3.system.patience import Patience
from dinov3.system.signal_mask import signals_blocked

GRACE = 30.0  # seconds beyond the limit after which the interpreter itself is taken to be stuck: see guard.py
NOTICED = 60.0  # seconds of standing still, below which a machine may be busy, or one call have kept Python's lock
LINGER = 3.0  # seconds between the report and the end: the other processes, a moment behind, report too


class Watchdog:
    """A thread that expects ``beat`` to be called often enough; otherwise it ends the process with code 79.

    Every process has one, so a process that waits for a stalled one in a collective ends at the same time.
    ``seconds``: the usual limit; ``slow_seconds``: for things that take long. Time in which the process is suspended does
    not count.
    """

    def __init__(self, folder: Path, *, seconds: float, slow_seconds: float) -> None:
        self.folder, self.seconds, self.slow_seconds = folder, seconds, max(seconds, slow_seconds)
        self._closed = threading.Event()
        self.beat("starting", slow=True)
        self._tick = Patience(self.seconds).tick
        self._always, self._lock = Patience(math.inf, self._tick), threading.Lock()  # nobody begins this one anew
        self._guard = _Guard(self.slow_seconds + GRACE)
        self._thread = threading.Thread(target=self._watch, name="dinov3-watchdog", daemon=True)
        self._thread.start()

    def beat(self, what: str | Callable[[], str], *, slow: bool = False) -> None:
        """Something was finished; ``what`` comes next."""
        self._what = what if callable(what) else lambda: what
        self._limit = self.slow_seconds if slow else self.seconds
        self._patience = Patience(self._limit)

    def stood_still(self) -> float:
        """Seconds in which this process was suspended since this was last asked; 0 for less than a minute."""
        with self._lock:
            self._always.over()
            found, self._always.stood_still = self._always.stood_still, 0.0
        return found if found > NOTICED else 0.0

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()
        self._guard.close()

    def _watch(self) -> None:
        while not self._closed.wait(self._tick):
            self._guard.beat()
            with self._lock:
                self._always.over()
            if self._patience.over():
                self._end()

    def _end(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"process-{rank()}.txt"
        with os.fdopen(open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
            for out in (file, *_stderr()):
                print(f"error: process {rank()} has hung for {self._limit:g} s; stacks:", file=out, flush=True)
                faulthandler.dump_traceback(out, all_threads=True)
            for out in (file, *_stderr()):
                print(f"process {rank()}: {self._what()}", file=out, flush=True)
        time.sleep(LINGER)
        leave_at_once(EXIT_HANG)


def _stderr() -> list[TextIO]:
    """Standard error, if this process has it open."""
    return [] if sys.__stderr__ is None or sys.__stderr__.closed else [sys.__stderr__]


class _Guard:
    """This process's end of ``guard.py``, which hears of it every second while Python code can run here."""

    def __init__(self, seconds: float) -> None:
        self._enabled = not faulthandler.is_enabled()  # else a notebook's or a test's target stays
        if self._enabled:
            faulthandler.enable(next(iter(_stderr()), 2))
        with signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(seconds)], stdin=subprocess.PIPE
            )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)

    def beat(self) -> None:
        """All is well."""
        try:
            os.write(self._pipe.fileno(), b".")
        except BlockingIOError:  # it is suspended, and has enough to read
            return
        except BrokenPipeError:  # somebody ended it: what it is for is rare, and no reason to end the run
            return

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.kill()  # it may be suspended
        self._process.wait()
        if self._enabled:
            faulthandler.disable()
