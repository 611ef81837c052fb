"""The console may be closed, gone in mid-run, or unable to show a character: none of that ends a command.

``prepare`` puts streams in place of standard output and error that never raise for what their reader does: the reader
of ``dinov3 train 2>&1 | head`` goes away, a terminal is closed with its ssh session, ``2>&-`` was given. What was written
from then on is dropped, the work goes on, and the exit code stays true.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from functools import lru_cache
from typing import TextIO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Outlet(io.RawIOBase):
    """A file descriptor that people read from; it swallows everything once nobody does."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self.gone = False
        self.full: OSError | None = None  # it is a file, and the disk had no room for what was written

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return not self.gone and os.isatty(self._handle)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        if self.gone:
            return len(view)
        try:
            return os.write(self._handle, view)
        except BlockingIOError:  # a pipe that another process made non-blocking is full
            select.select([], [self._handle], [])
            return self.write(view)
        except OSError as error:  # EPIPE, EIO of a terminal that hung up, ENOSPC of a full log: the run is not lost
            if error.errno in NO_ROOM:
                self.full = error
            self._drop()
            return len(view)

    def _drop(self) -> None:
        """From here on the descriptor leads nowhere, for libraries that write to it by number too."""
        self.gone = True
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._handle)


def stderr() -> TextIO:
    """Standard error; a stream that leads nowhere where a program that calls us from Python has none, or closed it."""
    return _nowhere() if sys.stderr is None or sys.stderr.closed else sys.stderr


@lru_cache(maxsize=1)
def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def prepare() -> None:
    """Put safe streams in place of the process's own; those that something else has replaced stay. A second call does nothing."""
    _fill_standard_handles()
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout)
        sys.__stdout__ = sys.stdout  # type: ignore[misc, assignment]
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr)
        sys.__stderr__ = sys.stderr  # type: ignore[misc, assignment]


def flush_answer() -> None:
    """Write out what a command has answered. Raises OSError when it did not fit on the disk: ``dinov3 … > file``."""
    sys.stdout.flush()
    outlet = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(outlet, Outlet) and outlet.full is not None:
        raise OSError(outlet.full.errno, outlet.full.strerror, "standard output")


def _fill_standard_handles() -> None:
    """Open what was closed (``2>&-``): else the next file opened, perhaps a checkpoint, would be standard error."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # the lowest free number: this one; loaders need it too


def _stream(handle: int, before: TextIO | None) -> TextIO:
    if isinstance(before, io.TextIOWrapper) and isinstance(before.buffer, io.BufferedWriter):
        if isinstance(before.buffer.raw, Outlet):
            return before
        with contextlib.suppress(OSError):
            before.flush()
    encoding = getattr(before, "encoding", None) or "utf-8"
    outlet = Outlet(handle)
    return io.TextIOWrapper(
        io.BufferedWriter(outlet),  # type: ignore[type-var]
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=handle == 2 or outlet.isatty(),
        write_through=handle == 2,
    )
