"""Which weights of a run are kept: those with the best validation, never those with the best test."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.finetune.classifier_file import place_folder
from dinov3.runs.folder import RunFolder
from dinov3.runs.step_folders import step_folders, step_of
from dinov3.system.rows import read_rows

FOLDER, PREFIX = "selected", "val_"
LOWER_IS_BETTER = ("NLL", "Brier", "ECE", "rmse", "distance")
Row = Mapping[str, Any]


def place_of(run: RunFolder, step: int) -> Path:
    """Where the classifier of a step lies that was the best so far."""
    return run.path / FOLDER / f"step-{step:08d}"


def rank_of(row: Row, metric: str) -> tuple[float, float]:
    """Larger is better: the metric, then the negative NLL. What is not a number is the worst."""

    def of(name: str) -> float:
        value = row.get(PREFIX + name)
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return -float(value) if name in LOWER_IS_BETTER else float(value)

    return of(metric), of("NLL")


def best(rows: Sequence[Row], metric: str) -> Row | None:
    """The row of the best validation, the first of equals; None when there is none."""
    validated = [row for row in rows if f"{PREFIX}{metric}" in row]
    return max(validated, key=lambda row: rank_of(row, metric), default=None)


def keep_if_best(run: RunFolder, row: Row, metric: str, products: Callable[[Path], None]) -> None:
    """Keep what ``products`` writes when ``row``, of a step that is not in evaluation.jsonl yet, is the best so far."""
    rows = [*read_rows(run.evaluation), row]
    if best(rows, metric) is row:
        place_folder(place_of(run, int(row["step"])), products)
        drop_others(run, rows, metric)


def kept(run: RunFolder, rows: Sequence[Row], metric: str) -> Row | None:
    """The best row whose classifier is there: a run that was rolled back far may have lost the best."""
    return best([row for row in rows if place_of(run, int(row["step"])).is_dir()], metric)


def drop_others(run: RunFolder, rows: Sequence[Row], metric: str) -> None:
    """Remove classifiers but the best of all rows and the best up to the newest checkpoint, where a kill goes back to."""
    folders = step_folders(run.path)
    saved = step_of(folders[-1]) if folders else 0
    found = [best(rows, metric), best([row for row in rows if int(row["step"]) <= saved], metric)]
    steps = {int(row["step"]) for row in found if row is not None}
    for folder in (run.path / FOLDER).glob("step-*"):
        if folder not in [place_of(run, step) for step in steps]:
            shutil.rmtree(folder, ignore_errors=True)
