"""What a run writes down while it trains: ``metrics.jsonl`` and the progress line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a metrics file; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def keep_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Write a metrics file anew with the rows that are ``wanted``."""
    fresh = path.with_suffix(".jsonl.tmp")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in read_metrics(path) if wanted(row)))
    os.replace(fresh, path)


class MetricsFile:
    """One JSON object per logged iteration, each iteration once, floats at full precision."""

    def __init__(self, path: Path, resume_at: int) -> None:
        """Open for appending; lines of iterations that will be run again (``>= resume_at``) are dropped."""
        keep_rows(path, lambda row: row["iteration"] < resume_at)
        self._file: TextIO = path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        self._file.close()


class ProgressLine:
    """A bar with ETA, images/s, loss and the share of time spent waiting for data."""

    def __init__(self, total: int, start: int, *, shown: bool) -> None:
        self._bar = tqdm(
            total=total,
            initial=start,
            disable=not shown,
            unit="step",
            delay=1e-9,  # drawn from the first step on, below the start-up block
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def step(self) -> None:
        self._bar.update(1)

    def describe(self, *, loss: float, images_per_second: float, data_wait: float) -> None:
        """Show the latest figures; ``data_wait`` is a share of wall time between 0 and 1."""
        text = f"loss {loss:.4f}, {images_per_second:.1f} images/s, data wait {data_wait:.0%}"
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        self._bar.close()
