"""Reference curves of a recipe: what its runs looked like where it was made, as one file that a run is laid over."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.config.changes import flatten
from dinov3.config.redaction import redacted
from dinov3.features.errors import FeatureError
from dinov3.overview.status import RunStatus, model_of
from dinov3.pictures.curves import curves
from dinov3.runs.folder import RunFolder
from dinov3.runs.recorded import config_in_force
from dinov3.system.files import write_whole
from dinov3.system.json_file import JsonError, Maybe, read_object
from dinov3.system.rows import Row, is_number, read_rows

SHIPPED = Path(__file__).resolve().parents[1] / "curves"  # docs/curves in a checkout
FORM = {
    "recipe": str,
    "seeds": [int],
    "config": dict,
    "rows": [{"iteration": int}],
    "evaluations": [{"step": int}],
    "made": Maybe(dict),
}
OF_THE_MACHINE = {"images_per_second", "data_wait", "share_of_peak"}  # and of what else it did
DIGITS = 6  # of a figure in the file
# Where a run lies, and what may differ from one seed to the next.
NOT_OF_THE_RECIPE = {"train.output_dir", "train.seed", "train.dataset_path", "train.num_workers"}


def mean_of_runs(recipe: str, runs: Sequence[Path], made: Mapping[str, Any]) -> dict[str, Any]:
    """The reference curves of runs of one config with several seeds: means over them. ``made``: where and of what.

    Raises FeatureError for a folder without figures, and for runs of different configs or lengths.
    """
    configs, rows, looks = [], [], []
    for path in runs:
        run = RunFolder(path)
        configs.append(flatten(redacted("", config_in_force(run).now or {})))
        rows.append(read_rows(run.metrics))
        looks.append(read_rows(run.evaluation))
        if not rows[-1] or not configs[-1]:
            raise FeatureError(f"{path}: no config.json, or no metrics.jsonl with a line in it: not a run that trained")
        for key in {*configs[0], *configs[-1]} - NOT_OF_THE_RECIPE:
            if configs[0].get(key) != configs[-1].get(key) and not key.startswith("evaluation."):
                raise FeatureError(f"{path}: {key} is not that of {runs[0]}: give runs of one recipe")
    return {
        "recipe": recipe,
        "seeds": [config["train.seed"] for config in configs],
        "made": dict(made),
        "config": {
            k: v for k, v in configs[0].items() if k not in NOT_OF_THE_RECIPE and not k.startswith("evaluation.")
        },
        "rows": _means(rows, "iteration", runs),
        "evaluations": _means(looks, "step", runs),
    }


def _means(files: Sequence[Sequence[Row]], over: str, runs: Sequence[Path]) -> list[Row]:
    """Row by row over the same files of several runs."""
    for rows, path in zip(files, runs, strict=True):
        if [row.get(over) for row in rows] != [row.get(over) for row in files[0]]:
            raise FeatureError(f"{path}: was measured at other steps than {runs[0]}")
    return [_mean(rows, over) for rows in zip(*files, strict=True)]


def _mean(rows: Sequence[Row], over: str) -> Row:
    keys = [key for key in rows[0] if key not in OF_THE_MACHINE and key != over]
    values = {key: [row[key] for row in rows if is_number(row.get(key))] for key in keys}
    means = {key: float(f"{statistics.mean(found):.{DIGITS}g}") for key, found in values.items() if found}
    return {over: rows[0][over], **means}


def write_reference(reference: Mapping[str, Any], path: Path) -> None:
    """The file, a line a row so that a change of it can be read, and its picture beside it."""
    head = {key: value for key, value in reference.items() if key not in ("rows", "evaluations")}
    lists = [
        f"{json.dumps(key)}: [\n" + ",\n".join(json.dumps(row) for row in reference[key]) + "\n]"
        for key in ("rows", "evaluations")
    ]
    write_whole(path, json.dumps(head)[:-1] + ",\n" + ",\n".join(lists) + "}\n")
    curves(reference["rows"], path.with_suffix(".png"), reference["evaluations"])


def find_reference(text: Path) -> Path | None:
    """The file of reference curves that ``text`` names: a path, or the name of a shipped recipe; None for neither."""
    if text.suffix == ".json" and text.is_file():
        return text
    shipped = SHIPPED / f"{text}.json"
    return shipped if len(text.parts) == 1 and shipped.is_file() and not text.exists() else None


def shipped_references() -> list[str]:
    """Names of the recipes that have reference curves."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def read_reference(path: Path) -> dict[str, Any]:
    """What ``mean_of_runs`` gave, from its file. Raises FeatureError."""
    try:
        found = read_object(path, FORM)
    except (OSError, JsonError) as error:
        raise FeatureError(f"{path}: not reference curves: {error}") from error
    if not found["rows"]:
        raise FeatureError(f"{path}: not reference curves: it has no rows")
    return found


def status_of_reference(found: Mapping[str, Any], path: Path) -> RunStatus:
    """As of a run that has ended."""
    student = {k.removeprefix("student."): v for k, v in found["config"].items() if k.startswith("student.")}
    last, loss = found["rows"][-1]["iteration"] + 1, found["rows"][-1].get("total_loss")
    return RunStatus(
        path=path,
        model=model_of({"student": student}),
        state="reference",
        step=last,
        steps=last,
        loss=loss if is_number(loss) else None,
        knn=None,
        speed=None,
        written=path.stat().st_mtime,
    )
