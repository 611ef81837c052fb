"""Limits in seconds for which a process was running: a scheduler may suspend a job, or a person (Ctrl-Z)."""

from __future__ import annotations

import time

TICK = 1.0  # seconds; how often a limit is asked after
MOST = 2  # ticks that one of them may take on a busy machine. What is longer was no running


class Patience:
    """Whether ``seconds`` are over, without those in which this process stood still. To be asked every ``tick`` seconds.

    ``stood_still``: those seconds, as far as they were noticed.
    """

    def __init__(self, seconds: float, tick: float = TICK) -> None:
        self.tick = min(tick, seconds / 4)
        self._left, self._asked, self.stood_still = seconds, time.monotonic(), 0.0

    def over(self) -> bool:
        """Whether nothing is left."""
        now = time.monotonic()
        passed = now - self._asked
        counted = min(passed, MOST * self.tick)
        self._left -= counted
        self.stood_still += passed - counted
        self._asked = now
        return self._left <= 0
