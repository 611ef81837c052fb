"""Turn a request to stop into a flag that the loop reads between two steps."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """SIGTERM and SIGINT ask for a save and a clean exit; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)
