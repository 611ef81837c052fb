"""One run a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

from dinov3.distributed.context import is_main


class RunLocked(Exception):
    """Another process is training in this folder."""


class RunLock:
    """Holds ``RUN/.lock`` while a run lasts. The kernel frees it when the process ends, however it ends."""

    def __init__(self, run: Path) -> None:
        self.path = run / ".lock"
        self._handle: int | None = None

    def __enter__(self) -> RunLock:
        if not is_main():
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise RunLocked(f"{self.path.parent}: {owner} is training here; use another --output-dir") from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
