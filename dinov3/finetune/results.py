"""``RUN/results.json``: what a finished classifier scores, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from dinov3.config.shown import shown as harmless
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.measures.bootstrap import bootstrap
from dinov3.finetune.measures.metrics import Array, confusion, metrics
from dinov3.system.json_file import JsonError, Maybe, as_form, read_object

RESULTS, PREDICTIONS, CURVES = "results.json", "predictions.csv", "roc_pr_reliability"
FORMAT = "dinov3-finetune-results"
CLASSES = 12  # in a line
MOST_CLASSES = 200  # whose confusion is written down
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


def confused(p: Array, y: Array) -> dict[str, list[list[int]]]:
    """``{"confusion": [[…]]}`` as ``metrics.confusion`` counts it; of very many classes nothing."""
    classes = 2 if p.ndim == 1 else p.shape[1]
    return {} if classes > MOST_CLASSES else {"confusion": confusion(p, y).tolist()}


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


def by_class_of(results: Results, part: str) -> list[str]:
    """A line on how many images of each class are recognised: of many classes the worst. None of older files."""
    rows, names = results["sets"].get(part, {}).get("confusion"), results.get("names")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        return []
    found = []
    for label, row in enumerate(rows):
        name = names[label] if isinstance(names, list) and label < len(names) else label
        if all(isinstance(count, int) for count in row) and sum(row):
            found.append((Fraction(row[label], sum(row)), f"{harmless(str(name))} {row[label]:,} of {sum(row):,}"))
    worst = sorted(found, key=lambda pair: pair[0])[:CLASSES] if len(found) > CLASSES else found
    said = f", the {CLASSES} worst of {len(found)} classes" * (len(found) > CLASSES)
    return [f"{part}, recognised{said}: {', '.join(text for _, text in worst)}"] if found else []


def lines_of(results: Results) -> list[str]:
    """What is printed of a finished run: its sentence, what became of each class, notes."""
    classes = [line for part in results["sets"] for line in by_class_of(results, part)]
    return [sentence_of(results), *classes, *notes_of(results)]


def notes_of(results: Results) -> list[str]:
    """What makes the scores mean something else than they seem to, a sentence each."""
    notes = results.get("notes")
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def positive_of(results: Results) -> str:
    """Of two classes with names the one that AUPRC and sensitivity are of; "" when there is none, or the file is older."""
    names = results.get("names")
    return str(names[1]) if isinstance(names, list) and len(names) == 2 else ""
