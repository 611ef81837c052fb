"""What is looked at while a head trains: scores on validation, which select the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

from dinov3.engine.look import Look, Row
from dinov3.finetune.classifier_file import place_folder
from dinov3.finetune.selection import PREFIX, best, keep_if_best, kept, place_of
from dinov3.finetune.tuned_task import TunedTask
from dinov3.runs.folder import RunFolder
from dinov3.system.rows import read_rows

Scores = Mapping[str, float | None]


@dataclass
class Scene:
    """A model after ``step`` steps, on every process."""

    step: int
    task: TunedTask[Any, Any]
    scored: tuple[Scores, int] | None  # of validation, and of how many images; None: it was measured before
    conclude: Callable[[TunedTask[Any, Any]], None]  # the scores of the end, on the main process


class Validation(Look[Scene]):
    """A row of scores on validation, and the weights kept when ``select`` is the best so far."""

    name = "validation"

    def __init__(self, run: RunFolder, period: int, select: str) -> None:
        self.run, self.period, self.select = run, period, select

    def measure(self, scene: Scene) -> dict[str, Any]:
        if scene.scored is None:
            return {}
        scores, images = scene.scored
        row: dict[str, Any] = {PREFIX + name: value for name, value in scores.items()}
        row["val_images"] = images
        keep_if_best(self.run, {"step": scene.step, **row}, self.select, scene.task.products(copy=False))
        return row

    def sentence(self, rows: Sequence[Row]) -> str | None:
        key = f"{PREFIX}{self.select}"
        found, validated = best(rows, self.select), [row for row in rows if key in row]
        if found is None:
            return None
        shown = "not defined" if found[key] is None else f"{found[key]:.4f}"
        told = f"selected step {found['step']} of {validated[-1]['step']}: validation {self.select} {shown}"
        return told if found["step"] or len(validated) < 2 else f"{told}; training made it no better"


def place_selected(run: RunFolder, task: TunedTask[Any, Any], step: int, select: str, folder: str) -> Path:
    """The folder ``folder`` of the run, with the weights of the best validation. On the main process alone."""
    row = kept(run, read_rows(run.evaluation), select)
    place = place_of(run, step if row is None else int(row["step"]))
    if row is None:  # the run was rolled back beyond its best: the last weights are kept
        place_folder(place, task.products(copy=False))
    placed: Path = run.path / folder
    place_folder(placed, lambda fresh: _copy(place, fresh))
    return placed


def _copy(place: Path, folder: Path) -> None:
    copytree(place, folder, dirs_exist_ok=True)
