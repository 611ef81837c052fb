"""Something that is measured or drawn while a run trains: an online metric, a picture, a limit below which a run stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from dinov3.runs.folder import RunFolder

S = TypeVar("S")  # what is looked at: the model at one step, with what several looks share
Row = Mapping[str, Any]  # of evaluation.jsonl


class Look(Generic[S]):
    """One thing to look at. The methods below do nothing; a look overrides those it has a word in.

    ``measure`` and ``finish`` are called on the main process only, with the same scene for all looks of a step.
    """

    name: str
    period = (
        0  # steps between two, also when it is off: runs that share their steps stop together; 0: at both ends only
    )
    in_rows = True  # ``measure`` gives figures: a step that has a row of evaluation.jsonl is not measured again

    def due(self, step: int, *, ends: bool) -> bool:
        """Whether to look after ``step`` steps; ``ends``: it is the first or the last step."""
        return ends or is_multiple(step, self.period)

    def measure(self, scene: S) -> dict[str, Any]:
        """Figures for one row of evaluation.jsonl; pictures are written and give none."""
        return {}

    def stop(self, rows: Sequence[Row]) -> str | None:
        """Why the run should end here, by the rows so far, the last of them of this step; None: it should not."""
        return None

    def finish(self, scene: S) -> None:
        """Draw what belongs to the end of a run."""

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        """Files of ``finish`` that are not there, or older than the last checkpoint (nanoseconds since the epoch)."""
        return []

    def sentence(self, rows: Sequence[Row]) -> str | None:
        """What to say when the run has ended."""
        return None


def is_multiple(step: int, period: int) -> bool:
    """A multiple of ``period``; never when it is 0."""
    return period > 0 and step % period == 0


def next_multiple(step: int, period: int) -> int:
    """The first multiple of ``period`` after ``step``; far away when the period is 0."""
    return (step // period + 1) * period if period > 0 else 2**62
