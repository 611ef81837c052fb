"""What was measured of a run's weights after training: `dinov3 eval` adds a line to the run's ``scores.jsonl``; pages read it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.runs.folder import CHECKPOINTS, RunFolder, is_run
from dinov3.runs.manifest import quick_problem_with
from dinov3.runs.stage_record import last_finished
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import Row, append_row, is_number, read_rows

SETTINGS = ("k", "temperature")  # of a score, like every word; other numbers were measured
NO_SHARES = {*SETTINGS, "learning_rate", "C"}  # of labelled sets; every other number of theirs is a share
NEIGHBOURS = 20  # of the k-NN score that stands for all: as many as training takes by default
HELD_OUT = "held_out"  # what a setting was chosen by: no score


def keep_scores(weights: Path, report: Mapping[str, Any]) -> None:
    """Add ``report`` to the run that ``weights`` are of; nothing for weights of no run.

    A run that cannot be written to is said so and left: the scores have been printed.
    """
    found = _checkpoint_of(weights)
    if found is None:
        return
    run, checkpoint = found
    row = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "checkpoint": checkpoint, **report}
    try:
        append_row(run.scores, row)
    except OSError as error:
        print(f"{run.scores}: not kept with the run ({error.strerror or error})", file=sys.stderr)


def _checkpoint_of(weights: Path) -> tuple[RunFolder, str] | None:
    """The run, and the name of the checkpoint of it, that ``weights``, which have been read, are of."""
    if not weights.exists():  # an id of the Hub
        return None
    place = (last_finished(weights) or weights).resolve()
    run = next((folder for folder in (place, *place.parents) if is_run(folder)), None)
    if run is None:
        return None
    parts = place.relative_to(run).parts
    if not parts:
        whole = [folder for folder in step_folders(run) if quick_problem_with(folder) is None]
        parts = (CHECKPOINTS, whole[-1].name) if whole else ()
    return (RunFolder(run), parts[1]) if parts[:1] == (CHECKPOINTS,) else None  # what else lies there is an export


def scores_of(run: RunFolder) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(task, on what, setting) -> (checkpoint, what was measured), each as it was measured last."""
    found = {}
    for row in read_rows(run.scores):
        scores = row.get("scores")
        for score in scores if isinstance(scores, list) else ():
            if isinstance(score, dict):
                setting, measured = _told(score, shares="data" not in row)
                found[str(row.get("task")), _data(row), setting] = (str(row.get("checkpoint")), measured)
    return found


def knn_of(run: RunFolder) -> float | None:
    """The k-NN accuracy, a share, that ``dinov3 eval knn`` measured last; None when it never did."""
    for row in reversed(read_rows(run.scores)):
        scores = row.get("scores")
        if row.get("task") == "knn" and isinstance(scores, list):
            known = [one for one in scores if isinstance(one, dict) and is_number(one.get("accuracy"))]
            for score in sorted(known, key=lambda one: one.get("k") != NEIGHBOURS):  # else the first
                return float(score["accuracy"])
    return None


def _told(score: Row, *, shares: bool) -> tuple[str, str]:
    """Setting and measurements of a score, in words, ``shares`` in per cent; lists and tables of it are in the file only."""
    known = {key: value for key, value in score.items() if key != HELD_OUT and not isinstance(value, dict | list)}
    given = {key for key, value in known.items() if key in SETTINGS or isinstance(value, str)}
    cells = {key: f"{key} {_cell(value, share=shares and key not in NO_SHARES)}" for key, value in known.items()}
    setting, measured = (", ".join(cells[key] for key in cells if (key in given) is want) for want in (True, False))
    return setting, measured


def _data(row: Row) -> str:
    if "data" in row:
        return f"{row['data']}, {row.get('protocol')}"
    return f"{row.get('test')}, from {row.get('train')}, {row.get('pool')}"


def _cell(value: object, *, share: bool) -> str:
    if share and is_number(value):
        return f"{100 * value:.2f} %"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
