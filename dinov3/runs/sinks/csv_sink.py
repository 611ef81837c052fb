"""``metrics.csv`` and ``evaluation.csv``: the JSONL files as tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from dinov3.runs.sinks.sink import Row
from dinov3.system.files import replacing
from dinov3.system.rows import read_rows


class CsvSink:
    """Every row, floats at full precision; an empty cell where a row has no such column."""

    def __init__(self, out: Path) -> None:
        """Write both tables anew from the JSONL files, which have lost the steps that will run again."""
        self._train, self._evaluation = _Table(out / "metrics.jsonl"), _Table(out / "evaluation.jsonl")

    def train(self, row: Row) -> None:
        self._train.add(row)

    def evaluation(self, row: Row) -> None:
        self._evaluation.add(row)

    def picture(self, path: Path, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Table:
    """One CSV file beside its JSONL, which has every row first."""

    def __init__(self, source: Path) -> None:
        self._source, self._path = source, source.with_suffix(".csv")
        self._columns: list[str] = []
        self._rewrite()

    def add(self, row: Row) -> None:
        if not row.keys() <= set(self._columns):  # a table has its columns in the first line
            return self._rewrite()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(_cells(row))

    def _rewrite(self) -> None:
        rows = read_rows(self._source)
        self._columns = list(dict.fromkeys(key for row in rows for key in row))
        if not rows:
            return self._path.unlink(missing_ok=True)
        with replacing(self._path) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(map(_cells, rows))


def _cells(row: Row) -> dict[str, Any]:
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
