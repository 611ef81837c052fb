"""Sentences of advice when a run goes wrong in a way that its loss curve does not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]  # a line of metrics.jsonl
SETTLED_STEPS, SETTLED_SHARE = 100, 0.01  # a run is judged after this many steps, or this share of a long one
FIRST_PAUSE = 10  # logged lines from a rule's first alarm to its second, at least


def judged_from(total_steps: int) -> int:
    """The step from which most rules look at a run of ``total_steps``."""
    return max(SETTLED_STEPS, int(SETTLED_SHARE * total_steps))


@dataclass(frozen=True)
class Rule:
    """What is wrong with a logged line, and what to do about it."""

    name: str
    wrong: Callable[[Row, Row], bool]  # of this line and the one before
    advice: Callable[[Row], str]
    in_a_row: int = 3  # logged lines that must be wrong
    settled: bool = True  # only once the run had time to get going


class Alarms:
    """Looks at every logged line; a rule speaks when it has been broken for long enough, and again only after it was kept.

    A rule that is broken now and then waits twice as many lines after each of its alarms: advice, not a second log.
    """

    def __init__(self, rules: Sequence[Rule], total_steps: int) -> None:
        self._rules = rules
        self._settled = judged_from(total_steps)
        names = [rule.name for rule in self._rules]
        self._broken = dict.fromkeys(names, 0)  # lines in a row
        self._said = dict.fromkeys(names, False)  # in this row of them
        self._pause = dict.fromkeys(names, FIRST_PAUSE)  # lines between the last alarm and the next
        self._silent = dict.fromkeys(names, 0)  # lines left of it
        self._before: Row = {}

    def look(self, row: Row) -> list[dict[str, Any]]:
        """The alarms this line sets off, as rows of ``alarms.jsonl``."""
        found: list[dict[str, Any]] = []
        for rule in self._rules:
            judged = not rule.settled or row["iteration"] >= self._settled
            wrong = judged and rule.wrong(row, self._before)
            self._broken[rule.name] = self._broken[rule.name] + 1 if wrong else 0
            self._said[rule.name] &= wrong
            self._silent[rule.name] -= 1
            if self._broken[rule.name] >= rule.in_a_row and not self._said[rule.name] and self._silent[rule.name] <= 0:
                self._said[rule.name] = True
                self._silent[rule.name] = self._pause[rule.name]
                self._pause[rule.name] *= 2
                text = f"alarm at step {row['iteration']}, {rule.name.replace('_', ' ')}: {rule.advice(row)}"
                found.append({"iteration": row["iteration"], "alarm": rule.name, "text": text})
        self._before = row
        return found
