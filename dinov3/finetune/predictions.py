"""The table of what was predicted: one row a sample, and a run that is written again replaces its own rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinov3.finetune.measures.metrics import Array, MetricError, checked
from dinov3.system.files import write_whole

FIXED, NAME = ("run", "split", "index", "label"), "image"


class Predicted(NamedTuple):
    """Of one run on one split: probabilities [N] of class 1 or [N, C], labels [N], the samples' numbers [N]."""

    p: Array
    y: Array
    sample: Array
    names: Sequence[str] = ()  # of the images, by which people find them; empty: not known


def write_predictions(path: Path, run: str, split: str, found: Predicted) -> None:
    """Put the rows of (run, split) into the CSV at ``path`` in place of earlier ones; all other rows stay as they are.

    Columns: run, split, index, label, p_0 ... p_C-1 (one p_1 for two classes given as [N]), image. Probabilities are
    written so that they are read back bit for bit. MetricError for a file with other columns.
    """
    p, y = checked(found.p, found.y)
    columns = ["p_1"] if p.ndim == 1 else [f"p_{c}" for c in range(p.shape[1])]
    header = [*FIXED, *columns, NAME]
    kept = [row for row in _rows(path, header) if (row[0], row[1]) != (run, split)] if path.exists() else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(kept)
    names = found.names or [""] * len(y)
    for number, label, row, name in zip(found.sample, y, p.reshape(len(y), -1), names, strict=True):
        writer.writerow([run, split, int(number), int(label), *(repr(float(value)) for value in row), name])
    write_whole(path, text.getvalue())


def read_predictions(path: Path) -> dict[tuple[str, str], Predicted]:
    """By (run, split). MetricError for a file that is no such table."""
    found: dict[tuple[str, str], list[Sequence[str]]] = {}
    for row in _rows(path, None):
        found.setdefault((row[0], row[1]), []).append(row)
    return {key: _predicted(path, rows) for key, rows in found.items()}


def _predicted(path: Path, rows: Sequence[Sequence[str]]) -> Predicted:
    try:
        sample, y = (np.array([int(row[i]) for row in rows], dtype=np.int64) for i in (2, 3))
        p = np.array([[float(value) for value in row[4:-1]] for row in rows])
    except (ValueError, OverflowError) as error:
        raise MetricError(f"{path}: {error}") from error
    p, y = checked(p[:, 0] if p.shape[1] == 1 else p, y)
    return Predicted(p, y, sample, [row[-1] for row in rows])


def _rows(path: Path, header: list[str] | None) -> list[list[str]]:
    """Without the header, which must be ``header`` (None: any of ours). Files of earlier programs have no names: ""."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MetricError(f"{path}: cannot be read: {error}") from error
    if rows and rows[0][-1:] != [NAME] and tuple(rows[0][: len(FIXED)]) == FIXED:
        rows = [[*rows[0], NAME], *([*row, ""] for row in rows[1:])]
    first = rows[0] if rows else []
    if tuple(first[: len(FIXED)]) != FIXED or (header is not None and first != header):
        raise MetricError(
            f"{path}: its columns are {first[:8]}, not {header or [*FIXED, 'p_…', NAME]}: give another file"
        )
    if broken := next((i for i, row in enumerate(rows, start=1) if len(row) != len(first)), None):
        raise MetricError(f"{path}: line {broken} has {len(rows[broken - 1])} columns, the first has {len(first)}")
    return rows[1:]
