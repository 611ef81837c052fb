"""Signals that are for the process that starts others, not for those it starts."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# By which a person or a cluster asks a job to save and stop.
ASKING = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP}


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started inside never see the signals ``ASKING``, from their first instruction on.

    A terminal sends Ctrl-C, and SLURM its signals, to every process of a job. The one that started the others still
    needs them then: it finishes its step first, and ends them itself. Ctrl-C waits here until all have been started, so
    that none is started and forgotten.
    """
    with _ctrl_c_later():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """The mask is not enough: another thread takes the signal, and Python interrupts the main one."""
    if threading.current_thread() is not threading.main_thread():  # it is not interrupted
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
