"""ROC, precision-recall and reliability of one or several classifiers, as PNG or SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dinov3.finetune.measures.metrics import (
    BINS,
    Array,
    MetricError,
    auroc,
    average_precision,
    calibration_bins,
    checked,
    expected_calibration_error,
    operating_points,
)

INK, MUTED = "#1f2933", "#7b8794"
MOST_POINTS = 2000  # of a line; more is not to be seen and makes an SVG of megabytes
Predictions = Mapping[str, tuple[Array, Array]]  # name -> (P(y = 1) [N], y [N])


def roc_curve(p: Array, y: Array) -> tuple[Array, Array]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), a point a distinct threshold.

    MetricError when a class is missing.
    """
    points = operating_points(*_both_classes(p, y))
    rates = points.false_positives / points.negatives, points.true_positives / points.positives
    return np.concatenate([[0.0], rates[0]]), np.concatenate([[0.0], rates[1]])


def precision_recall_curve(p: Array, y: Array) -> tuple[Array, Array]:
    """(recall, precision), a point a distinct threshold, recall rising. MetricError when a class is missing."""
    points = operating_points(*_both_classes(p, y))
    chosen = points.true_positives + points.false_positives
    return points.true_positives / points.positives, points.true_positives / chosen


def has_curves(y: Array) -> bool:
    """Whether there are two classes among the labels [N]: of one there is nothing to draw."""
    return len(np.unique(y)) > 1


def draw_curves(
    predictions: Predictions, path: Path | io.BytesIO, *, bins: int = BINS, form: str | None = None
) -> None:
    """Three panels, a line a classifier. ``form``: png or svg; None: the ending of ``path``.

    The legends have the area, the average precision and the calibration error that ``metrics`` gives.
    """
    form = form or (path.suffix.removeprefix(".") if isinstance(path, Path) else "")
    if form not in ("png", "svg"):
        raise MetricError(f"{path}: a picture's name ends in .png or .svg")
    if not predictions:
        raise MetricError("there is nothing to draw")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dinov3"}):
        figure = Figure(figsize=(13.5, 4.4))
        roc, recall, reliability = figure.subplots(1, 3)
        for name, (p, y) in predictions.items():
            points = operating_points(*_both_classes(p, y))
            roc.plot(*_thinned(*roc_curve(p, y)), lw=1.5, label=f"{name}: {auroc(points):.4f}")
            found = precision_recall_curve(p, y)
            recall.step(*_thinned(*found), where="pre", lw=1.5, label=f"{name}: {average_precision(points):.4f}")
            _reliability(reliability, name, p, y, bins)
        _finish(roc, "ROC, area", "1 - specificity", "sensitivity")
        _finish(recall, "precision-recall, average precision", "recall", "precision")
        _finish(reliability, "reliability, ECE", "confidence of the predicted class", "share that is right")
        reliability.set_xlim(0.45, 1.02)
        for axis in (roc, reliability):
            axis.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls="--", zorder=0)
        figure.tight_layout()
        metadata = {"Date": None} if form == "svg" else None  # the same predictions give the same file
        figure.savefig(path, format=form, dpi=110, metadata=metadata)


def _reliability(axis: Any, name: str, p: Array, y: Array, bins: int) -> None:
    count, accuracy, confidence = calibration_bins(p, y, bins=bins).T
    there = count > 0
    (line,) = axis.plot(confidence[there], accuracy[there], lw=1.2)
    sizes = 12 + 120 * count[there] / count.sum()  # a bin's share of the samples
    label = f"{name}: {expected_calibration_error(p, y, bins=bins):.4f}"
    axis.scatter(confidence[there], accuracy[there], s=sizes, color=line.get_color(), label=label)


def _finish(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.set_xlabel(x, fontsize=9, color=MUTED)
    axis.set_ylabel(y, fontsize=9, color=MUTED)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.tick_params(labelsize=8, colors=MUTED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False)


def _both_classes(p: Array, y: Array) -> tuple[Array, Array]:
    p, y = checked(p, y)
    if p.ndim != 1 or not has_curves(y):
        raise MetricError("a curve needs one probability a sample and both classes among the labels")
    return p, y


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """At most about MOST_POINTS points, the first and the last among them."""
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
    return x[rows], y[rows]
