"""What a run is at, from its folder alone: nothing in it is changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinov3.runs.folder import ASIDE, CHECKPOINTS, CONFIG_JSON, METRICS, RunFolder
from dinov3.runs.recorded import config_in_force
from dinov3.runs.scores import knn_of
from dinov3.runs.standing import standing
from dinov3.system.rows import Row, is_number, read_rows

DEEPEST = 4  # folders below the one that is looked through
INSIDE = {CHECKPOINTS, "pictures", "wandb", "tensorboard", "mlflow", "hang", "not_finite", "config_history"}


@dataclass(frozen=True)
class RunStatus:
    """One line of the table."""

    path: Path
    model: str
    state: str  # trains | finished | stopped | begun
    step: int
    steps: int | None  # it is to train
    loss: float | None
    knn: float | None  # share, the latest
    speed: float | None  # images/s, the latest
    written: float  # when its figures were, in seconds since 1970
    knn_by_eval: float | None = None  # share, the latest of `dinov3 eval knn`


def find_runs(folder: Path) -> list[Path]:
    """Every run folder below, oldest name first; a run's own folders are not looked into, stages and students are."""
    return sorted(_runs(folder, DEEPEST))


def _runs(folder: Path, deep: int) -> Iterator[Path]:
    if (folder / METRICS).is_file() or (
        (folder / CONFIG_JSON).is_file()
        and not any(folder.glob("*.safetensors*"))  # a model's config.json, also of others
    ):
        yield folder
    if deep == 0:
        return
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith((".", ASIDE))]
    for name in names:
        if name not in INSIDE and os.access(folder / name, os.R_OK | os.X_OK):
            yield from _runs(folder / name, deep - 1)


def status_of(path: Path) -> RunStatus:
    """Where the run in ``path`` is."""
    run = RunFolder(path)
    rows, evaluations = read_rows(run.metrics), read_rows(run.evaluation)
    config = config_in_force(run).now or {}
    last: Row = rows[-1] if rows else {}
    where = standing(path, last, config)
    return RunStatus(
        path=path,
        model=model_of(config),
        state=where.state,
        step=where.step,
        steps=where.steps,
        loss=_number(last.get("total_loss")),
        knn=next((row["knn_accuracy"] for row in reversed(evaluations) if is_number(row.get("knn_accuracy"))), None),
        speed=_number(last.get("images_per_second")),
        written=(run.metrics if rows else path).stat().st_mtime,
        knn_by_eval=knn_of(run),
    )


def model_of(config: Mapping[str, Any]) -> str:
    """``vit_small/16``, ``vit_small/8 96x3`` where width and depth are its own; of other kinds of run what they train."""
    if transformer := config.get("transformer"):
        return f"dit {transformer['width']}x{transformer['depth']}"
    if task := config.get("task"):
        return str(task)
    student = config.get("student", {})
    if not student.get("arch"):
        return ""
    size = f" {student['embed_dim']}x{student.get('depth')}" if student.get("embed_dim") else ""
    return f"{student['arch']}/{student.get('patch_size')}{size}"


def since(written: float) -> str:
    """How long ago: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    seconds = max(0.0, time.time() - written)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: object) -> float | None:
    return value if is_number(value) else None
