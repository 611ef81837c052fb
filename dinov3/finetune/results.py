"""``RUN/results.json``: what a finished classifier scores, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.finetune.bootstrap import bootstrap
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.metrics import Array, metrics
from dinov3.system.json_file import JsonError, Maybe, as_form, read_object

RESULTS, PREDICTIONS, CURVES = "results.json", "predictions.csv", "roc_pr_reliability"
FORMAT = "dinov3-finetune-results"
CALIBRATED = ("NLL", "Brier", "ECE")  # what a temperature changes
Results = dict[str, Any]
_SCORE = {name: Maybe(float) for name in ("value", "low", "high")}
FORM = {  # what reports and the next turn ask a file for
    **dict.fromkeys(("run", "label"), str),
    **dict.fromkeys(("step", "parameters"), int),
    "tta": bool,
    "sets": {str: {"images": int, "scores": {"AUROC": _SCORE, "BalancedAcc": _SCORE, str: _SCORE}}},
}


def finite(value: float) -> float | None:
    """A number as JSON has it: None for one that is not defined."""
    return float(value) if math.isfinite(value) else None


def scores(p: Array, y: Array, *, resamples: int, seed: int) -> dict[str, dict[str, float | None]]:
    """``{metric: {value, low, high}}`` of ``p`` [N] or [N, C]; without ``resamples`` the value alone."""
    found = metrics(p, y)
    rows: dict[str, dict[str, float | None]] = {name: {"value": finite(value)} for name, value in found.items()}
    if resamples:
        for name, interval in bootstrap(p, y, resamples=resamples, seed=seed).items():
            rows[name] |= {"low": finite(interval.low), "high": finite(interval.high)}
    return rows


def read_results(path: Path) -> Results:
    """Raises FinetuneError for a file that is none."""
    return checked_results("fine-tuning", path, FORMAT, FORM)


def checked_results(kind: str, path: Path, file_format: str, form: dict[Any, Any]) -> Results:
    """The results of another kind of run. Raises FinetuneError for a file that has none."""
    try:
        content = read_object(path, {"format": str})
        if content["format"] != file_format:
            raise FinetuneError(f"{path}: not the results of a {kind} run: `dinov3 report RUN` shows a run of any kind")
        as_form(content, form)
    except (OSError, JsonError) as error:
        raise FinetuneError(f"{path}: cannot be read ({error}): give a finished run") from error
    return content


def shown(score: Mapping[str, float | None]) -> str:
    """``0.9831 (0.9790 to 0.9868)``."""
    value, low, high = (score.get(k) for k in ("value", "low", "high"))
    if value is None:
        return "not defined"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f} to {high:.4f})"


def sentence_of(results: Results) -> str:
    """One line of a finished run."""
    parts = [
        f"{name}: AUROC {shown(part['scores']['AUROC'])}, balanced accuracy {shown(part['scores']['BalancedAcc'])}"
        for name, part in results["sets"].items()
    ]
    parts = parts or ["no validation and no test images: no scores"]
    positive = f", positive {positive_of(results)!r}" if positive_of(results) else ""
    return f"{results['label']}{', 8 views' if results['tta'] else ''}{positive}; " + "; ".join(parts)


def notes_of(results: Results) -> list[str]:
    """What makes the scores mean something else than they seem to, a sentence each."""
    notes = results.get("notes")
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def positive_of(results: Results) -> str:
    """Of two classes with names the one that AUPRC and sensitivity are of; "" when there is none, or the file is older."""
    names = results.get("names")
    return str(names[1]) if isinstance(names, list) and len(names) == 2 else ""
