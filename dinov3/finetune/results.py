"""``RUN/results.json``: what a finished classifier scores, with 95 % intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinov3.finetune.bootstrap import bootstrap
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.metrics import Array, metrics

RESULTS, PREDICTIONS, CURVES = "results.json", "predictions.csv", "roc_pr_reliability"
FORMAT = "dinov3-finetune-results"
CALIBRATED = ("NLL", "Brier", "ECE")  # what a temperature changes
Results = dict[str, Any]


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
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FinetuneError(f"{path}: cannot be read ({type(error).__name__}): give a finished run") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise FinetuneError(f"{path}: not the results of a fine-tuning run")
    return dict(content)


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
    return f"{results['label']}{', 8 views' if results['tta'] else ''}; " + "; ".join(parts)
