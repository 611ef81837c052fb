"""One run a folder, on one machine and across machines that share the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from dinov3.runs.folder import LEASE, LOCK
from dinov3.runs.output import check_output_folder
from dinov3.system.errors import EXIT_LOCKED, Foreseeable
from dinov3.system.files import naming, open_unlinked, write_whole
from dinov3.system.leaving import leave_at_once

log = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
HEARTBEAT = 20.0  # seconds between two signs of life
LEASE_BYTES = 1000  # more than a name of a machine and two numbers
STALE = 3  # this many without one, and the holder is gone


class RunLocked(Foreseeable):
    """Another process is at work in this folder: it trains, or writes features."""

    code = EXIT_LOCKED


class RunLock:
    """Holds ``RUN/.lock`` while a run lasts. The kernel frees it when the process ends, however it ends.

    Not every network file system carries such a lock to other machines, so the holder also changes ``RUN/.lease`` every
    ``HEARTBEAT`` seconds. A lease of another machine is watched for as long as three of them: when it changes the folder
    is in use, else its holder is gone. Clocks are not compared.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LOCK
        self.lease = run / LEASE
        self._handle: int | None = None
        self._kernel = True  # its file system has locks
        self._holder = "", 0  # this machine and process
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="dinov3-lease", daemon=True)

    def refuse_if_held(self) -> None:
        """Raise RunLocked when another process trains here; changes nothing."""
        if not os.access(self.path, os.W_OK):  # not there, or in a folder that nobody can train in through this path
            return
        handle = open_unlinked(self.path, os.O_RDWR)
        try:
            self._take(handle)
        finally:
            os.close(handle)

    def _take(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:  # Lustre without -o flock, NFS without a lock daemon
                if self._kernel:
                    log.warning("%s: this file system has no locks; only %s guards the folder", self.path.parent, LEASE)
                self._kernel = False
                return
            if not isinstance(error, BlockingIOError):
                raise
            owner = os.read(handle, 200).decode(errors="replace").strip()
            raise RunLocked(
                f"{self.path.parent}: {owner} is at work here: wait for it, or use another folder"
            ) from error

    def __enter__(self) -> RunLock:
        from dinov3.distributed.agreement import main_decides  # imports torch, which a table of runs need not wait for

        main_decides(lambda: check_output_folder(self.path.parent, "folder"))
        main_decides(self._acquire)
        return self

    def _acquire(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = open_unlinked(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(handle)
            self._watch_lease()
        except (RunLocked, OSError):
            os.close(handle)
            raise
        with naming(self.path):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._handle = handle
        self._holder = socket.gethostname(), os.getpid()  # as it is now: a laptop may get another name
        self._write_lease(0)
        self._heart.start()

    def _watch_lease(self) -> None:
        """Raise RunLocked when a process of another machine holds the folder."""
        before = self._read_lease()
        here = before is not None and before.splitlines()[:1] == [socket.gethostname()]
        if before is None or (here and self._kernel):  # on this machine the kernel's lock has decided
            return
        owner = before.splitlines()[0] if before else "another machine"
        log.warning("%s: left by %s; waiting up to %.0f s for a sign of life", self.lease, owner, STALE * HEARTBEAT)
        end = time.monotonic() + STALE * HEARTBEAT
        while time.monotonic() < end:
            time.sleep(HEARTBEAT / 10)
            now = self._read_lease()
            if now is None:
                return
            if now != before:
                raise RunLocked(
                    f"{self.path.parent}: a process on {owner} is at work here: wait for it, or use another folder"
                )

    def _read_lease(self) -> str | None:
        try:
            handle = open_unlinked(self.lease, os.O_RDONLY | os.O_NONBLOCK)  # a pipe of that name is not waited for
        except FileNotFoundError:
            return None
        try:
            return os.read(handle, LEASE_BYTES).decode(errors="replace")
        finally:
            os.close(handle)

    def _write_lease(self, beat: int) -> None:
        write_whole(self.lease, "{}\n{} {}\n".format(*self._holder, beat))

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(HEARTBEAT):
            beat += 1
            try:
                if owner := self._taken_by():
                    self._end(owner)
                self._write_lease(beat)
            except FileNotFoundError:
                log.warning(
                    "%s: is not there any more: put it back, or the next checkpoint cannot be saved", self.path.parent
                )
            except OSError as error:  # a full disk is for the next checkpoint to report
                log.warning("%s: %s", self.lease, error)

    def _taken_by(self) -> str:
        """Who else holds the folder: this process was suspended for so long that another machine took it for gone."""
        there = (self._read_lease() or "").splitlines()
        damaged = len(there) < 2
        return "" if damaged or (there[0], there[1].split(" ")[0]) == tuple(map(str, self._holder)) else there[0]

    def _end(self, owner: str) -> None:
        """End this process at once: nothing of it is to be written into the other one's folder."""
        if self._released.is_set():
            return
        said = f"error: {self.path.parent}: a process on {owner} took over while this one stood still; this one ends\n"
        with contextlib.suppress(OSError):
            os.write(2, said.encode())
        leave_at_once(EXIT_LOCKED)

    def forget(self) -> None:
        """Remove the lease, for a process that is about to be ended: no other machine waits for its signs of life."""
        self._released.set()
        if self._handle is not None:
            self.lease.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._released.set()
            self._heart.join()
            self.lease.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None
