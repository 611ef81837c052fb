"""What a place for metrics can do, beside the JSONL files that every run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


class Sink(Protocol):
    """One such place. Only the main process has any; whatever a method raises switches the sink off, not the run."""

    def train(self, row: Row) -> None:
        """A line of ``metrics.jsonl``; its step is ``iteration``."""

    def evaluation(self, row: Row) -> None:
        """A line of ``evaluation.jsonl``; its step is ``step``."""

    def picture(self, path: Path, step: int) -> None:
        """A picture of the run folder, as it is after ``step`` steps."""

    def close(self) -> None:
        """Send or write what is left, in bounded time."""


def numbers(row: Row) -> dict[str, float]:
    """The values of a row that can be drawn as a curve."""
    return {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool)}
