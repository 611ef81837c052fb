"""Turn a request to stop into a flag that the loop reads between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType

from dinov3.distributed.context import is_main

# Seconds. torchrun hands on the SIGTERM that SLURM sends to every process anyway, so one request may arrive twice.
SAME_REQUEST = 5.0
ANSWER = b"\nstopping after this step, saving; again to end now\n"


class StopRequest:
    """SIGTERM, SIGINT and SIGUSR1 ask for a save and a clean exit, SIGUSR2 for a save and another turn in the queue.

    SIGUSR2 is what SLURM sends before the time limit, and SIGTERM may follow at the limit while the save goes on. A
    second SIGTERM, and SIGINT after any request, end the process at once. Handlers of a launcher are replaced.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None  # of the first
        self.requeue = False  # SIGUSR2 was among them
        self._first: dict[int, float] = {}  # signal -> when it came first
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        asked = self.signal_name is not None
        self.signal_name = self.signal_name or signal.Signals(number).name
        self.requeue |= number == signal.SIGUSR2
        if number == signal.SIGINT and not asked and is_main():
            with contextlib.suppress(OSError):  # not print: the signal may come in the middle of one
                os.write(2, ANSWER)
        again = now - self._first.setdefault(number, now) > SAME_REQUEST
        if (number == signal.SIGINT and asked) or (number == signal.SIGTERM and again):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
