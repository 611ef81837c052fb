"""Turn a request to stop into a flag that the loop reads between two steps."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

# Seconds. torchrun hands on the SIGTERM that SLURM sends to every process anyway, so one request may arrive twice.
SAME_REQUEST = 5.0


class StopRequest:
    """SIGTERM and SIGINT ask for a save and a clean exit; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._first = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_name is None:
            self.signal_name, self._first = signal.Signals(number).name, now
        elif number == signal.SIGINT or now - self._first > SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
