"""When the state is saved: a decision without state of a run but one flag, so that it can be tested as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dinov3.engine.look import next_multiple


class Decision(NamedTuple):
    """What to do about saving after a step."""

    save: bool
    must: bool  # a failure ends the run: nothing else will be saved after this
    put_off: bool  # a save was due; it waits for the next update that is taken


@dataclass
class SavePlan:
    """Every ``period`` steps and at the end. In a streak of skipped steps the checkpoint before it is worth more than
    another one: a save that is due there is owed until an update is taken."""

    period: int
    until: int  # the step the run ends at
    owed: bool = False  # a save that was due and not made, by this run or one that shares its steps

    def next_stop(self, step: int, periods: Iterable[int]) -> int:
        """The step to train up to before looking or saving again; ``periods``: of the looks, 0 for none."""
        if self.owed:
            return step + 1
        return min(self.until, next_multiple(step, self.period), *(next_multiple(step, p) for p in periods))

    def decide(self, step: int, *, finished: bool, skipped: bool) -> Decision:
        """``finished``: the trainer came to ``step`` without being asked to stop; ``skipped``: its update was not taken."""
        last = not finished or step == self.until
        wanted = last or self.owed or step % self.period == 0
        streak = skipped and not last
        return Decision(save=wanted and not streak, must=last, put_off=wanted and streak)
