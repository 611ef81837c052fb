"""One run a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from dinov3.engine.agreement import same_on_all


class RunLocked(Exception):
    """Another process is training in this folder."""


class RunLock:
    """Holds ``RUN/.lock`` while a run lasts. The kernel frees it when the process ends, however it ends."""

    def __init__(self, run: Path) -> None:
        self.path = run / ".lock"
        self._handle: int | None = None

    def refuse_if_held(self) -> None:
        """Raise RunLocked when another process trains here; changes nothing."""
        if not self.path.exists():
            return
        handle = os.open(self.path, os.O_RDWR)
        try:
            self._take(handle)
        finally:
            os.close(handle)

    def _take(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            raise RunLocked(f"{self.path.parent}: {owner} is training here; use another --output-dir") from error

    def __enter__(self) -> RunLock:
        same_on_all(self._acquire, RunLocked)
        return self

    def _acquire(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(handle)
        except RunLocked:
            os.close(handle)
            raise
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._handle = handle

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
