"""What is looked at while a classifier trains: validation, which selects; and the scores of the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinov3.engine.look import Look, Row
from dinov3.finetune.config import ClassifyConfig
from dinov3.finetune.measures.metrics import metrics
from dinov3.finetune.results import RESULTS, finite, lines_of, read_results
from dinov3.finetune.scoring import Scored
from dinov3.finetune.selection import PREFIX, best, keep_if_best
from dinov3.runs.folder import RunFolder

if TYPE_CHECKING:
    from dinov3.finetune.task import FinetuneTask


@dataclass
class Scene:
    """A classifier after ``step`` steps, on every process."""

    step: int
    task: FinetuneTask
    scored: Scored | None  # of validation; None: there is none, or it was measured before
    conclude: Callable[[FinetuneTask], None]  # the scores of the end, on the main process


class Validation(Look[Scene]):
    """A row of metrics on validation, and the weights kept when they are the best so far."""

    name = "validation"

    def __init__(self, cfg: ClassifyConfig, run: RunFolder, period: int) -> None:
        self.cfg, self.run, self.period = cfg, run, period

    def measure(self, scene: Scene) -> dict[str, Any]:
        if scene.scored is None:
            return {}
        if np.isfinite(scene.scored.logits).all():
            found = metrics(scene.scored.probabilities(), scene.scored.labels)
        else:  # weights without numbers are the worst; whether training ends with them is said by nan.max_consecutive
            found = dict.fromkeys((self.cfg.evaluation.select, "NLL"), math.nan)
        row = {f"{PREFIX}{name}": finite(value) for name, value in found.items()}
        row["val_images"] = len(scene.scored.labels)
        now = {"step": scene.step, **row}
        keep_if_best(self.run, now, self.cfg.evaluation.select, scene.task.products(copy=False))
        return row

    def sentence(self, rows: Sequence[Row]) -> str | None:
        metric = self.cfg.evaluation.select
        found, validated = best(rows, metric), [row for row in rows if f"{PREFIX}{metric}" in row]
        if found is None:
            return None
        last, value = validated[-1], found[f"{PREFIX}{metric}"]
        shown = "not defined" if value is None else f"{value:.4f}"
        told = f"selected step {found['step']} of {last['step']}: validation {metric} {shown}"
        return told if found["step"] or len(validated) < 2 else f"{told}; training made it no better"


class Conclusion(Look[Scene]):
    """The scores of the selected weights on validation and test, written when the run ends."""

    name, in_rows = "conclusion", False

    def due(self, step: int, *, ends: bool) -> bool:
        return False

    def finish(self, scene: Scene) -> None:
        scene.conclude(scene.task)

    def missing(self, run: RunFolder, saved_ns: int) -> list[str]:
        path: Path = run.path / RESULTS
        return [] if path.is_file() and path.stat().st_mtime_ns >= saved_ns else [RESULTS]


def result_lines(run: RunFolder) -> list[str]:
    """What a finished run says of its scores."""
    path = run.path / RESULTS
    if not path.is_file():
        return []
    return lines_of(read_results(path))
