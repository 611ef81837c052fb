"""Metrics of probabilities against labels, defined where textbooks leave them open.

Ties, p = 0 and 1, a class that is missing and sets of one sample all have a value or NaN; nothing is smoothed by a small
number in a denominator. Counts are integers until the last division.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinov3.system.errors import Foreseeable

Array = NDArray[Any]
BINARY = ("AUROC", "AUPRC", "NLL", "Brier", "ECE", "Acc", "Sens95")
CLIP = float(np.finfo(np.float64).eps)  # 2.2e-16: the log of a certain mistake is 36, not infinite
BINS = 15
SPECIFICITY = 0.95


class MetricError(Foreseeable, ValueError):
    """Probabilities or labels that no metric is defined for; one line that says what is wrong."""


class OperatingPoints(NamedTuple):
    """What "positive at p >= t" gives for every distinct t, falling."""

    thresholds: Array  # [n] float64
    true_positives: Array  # [n] int64
    false_positives: Array  # [n] int64
    positives: int
    negatives: int


def checked(p: Array, y: Array) -> tuple[Array, Array]:
    """``p`` [N] or [N, C] as float64 and ``y`` [N] as int64. MetricError for what they cannot be."""
    p, y = np.asarray(p, dtype=np.float64), np.asarray(y)
    if p.ndim not in (1, 2) or y.shape != p.shape[:1] or not len(y):
        raise MetricError(f"probabilities {p.shape} and labels {y.shape}: give [N] or [N, C] and [N], N at least 1")
    if not np.isfinite(p).all() or p.min() < 0 or p.max() > 1:
        raise MetricError("probabilities must be finite and in 0..1: pass them through a sigmoid or softmax first")
    whole = y.astype(np.int64)
    classes = 2 if p.ndim == 1 else p.shape[1]
    if not (whole == y).all() or whole.min() < 0 or whole.max() >= classes:
        raise MetricError(f"labels must be whole numbers from 0 to {classes - 1}, found {y.min()} to {y.max()}")
    return p, whole


def confusion(p: Array, y: Array) -> Array:
    """Images ``[C, C]`` of each class (rows) by what is predicted (columns): the likeliest class, of two number 1 at p >= 0.5."""
    p, y = checked(p, y)
    predicted, classes = (p >= 0.5, 2) if p.ndim == 1 else (p.argmax(1), p.shape[1])
    return np.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)


def operating_points(p: Array, y: Array) -> OperatingPoints:
    """Counts at every distinct threshold, for ``p`` [N] and ``y`` [N] in {0, 1}."""
    order = np.argsort(-p, kind="stable")
    p, y = p[order], y[order]
    last = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)  # of each group of equal p
    hits = np.cumsum(y)[last]
    positives = int(y.sum())
    return OperatingPoints(p[last], hits, last + 1 - hits, positives, len(y) - positives)


def binary_metrics(p: Array, y: Array, *, bins: int = BINS, specificity: float = SPECIFICITY) -> dict[str, float]:
    """All of BINARY, and BalancedAcc, of ``p`` = P(y = 1) [N] and ``y`` [N] in {0, 1}.

    AUROC, AUPRC and BalancedAcc are NaN when a class is missing; Sens95 is then 0. Positive is p >= 0.5.
    """
    p, y = checked(p, y)
    points = operating_points(p, y)
    right = (p >= 0.5) == y
    recalls = [right[y == c].mean() if (y == c).any() else np.nan for c in (0, 1)]
    return {
        "AUROC": auroc(points),
        "AUPRC": average_precision(points),
        "NLL": float(-np.log(np.clip(np.where(y == 1, p, 1 - p), CLIP, 1 - CLIP)).mean()),
        "Brier": float(np.square(p - y).mean()),
        "ECE": expected_calibration_error(p, y, bins=bins),
        "Acc": float(right.mean()),
        "Sens95": sensitivity_at(points, specificity),
        "BalancedAcc": float(np.mean(recalls)),
    }


def auroc(points: OperatingPoints) -> float:
    """(pairs with the positive above the negative + half the ties) / pairs; NaN when a class is missing."""
    if not points.positives or not points.negatives:
        return float("nan")
    hits = np.concatenate([[0], points.true_positives])
    steps = np.diff(np.concatenate([[0], points.false_positives]))
    twice = int((steps * (hits[1:] + hits[:-1])).sum())
    return twice / (2 * points.positives * points.negatives)


def average_precision(points: OperatingPoints) -> float:
    """Sum over thresholds of (step in recall) * precision; NaN when a class is missing."""
    if not points.positives or not points.negatives:
        return float("nan")
    precision = points.true_positives / (points.true_positives + points.false_positives)
    steps = np.diff(np.concatenate([[0], points.true_positives]))
    return float((steps * precision).sum() / points.positives)


def sensitivity_at(points: OperatingPoints, specificity: float = SPECIFICITY) -> float:
    """The largest sensitivity of a threshold whose specificity is at least this, exactly that included; else 0."""
    if not points.positives or not points.negatives:
        return 0.0
    wanted = Fraction(repr(specificity))
    negatives = points.negatives - points.false_positives
    good = negatives * wanted.denominator >= wanted.numerator * points.negatives
    return float(points.true_positives[good].max(initial=0) / points.positives)


def confidence_of(p: Array, y: Array) -> tuple[Array, Array]:
    """(confidence [N] of the predicted class, whether it is right [N])."""
    if p.ndim == 1:
        predicted = p >= 0.5
        return np.where(predicted, p, 1 - p), predicted == y
    return p.max(1), p.argmax(1) == y


def calibration_bins(p: Array, y: Array, *, bins: int = BINS) -> Array:
    """[bins, 3]: count, accuracy and mean confidence of equal bins of the predicted class's confidence.

    Bin k is [k / bins, (k + 1) / bins), the last one closed: a confidence of 1 counts. Empty bins are 0.
    """
    confidence, right = confidence_of(*checked(p, y))
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=w, minlength=bins) for w in (right.astype(np.float64), confidence)]
    return np.stack([count, *(s / np.maximum(count, 1) for s in sums)], axis=1)


def expected_calibration_error(p: Array, y: Array, *, bins: int = BINS) -> float:
    """Sum over bins of their share times |accuracy - mean confidence|."""
    count, accuracy, confidence = calibration_bins(p, y, bins=bins).T
    return float((count * np.abs(accuracy - confidence)).sum() / len(y))


def multiclass_metrics(p: Array, y: Array, *, bins: int = BINS, specificity: float = SPECIFICITY) -> dict[str, float]:
    """The same for ``p`` [N, C], each row a distribution, and ``y`` [N] in 0..C-1.

    AUROC, AUPRC and Sens95 are macro means of one class against the rest, over the classes for which they are defined
    (the class and another one occur); NaN when there is none. BalancedAcc is the mean recall of the classes that occur.
    Brier sums over classes: with two of them it is twice the binary one. ECE is of the predicted class.
    """
    p, y = checked(p, y)
    if p.ndim != 2:
        raise MetricError(f"probabilities {p.shape}: one column a class is needed")
    present = [c for c in range(p.shape[1]) if (y == c).any()]
    each = [operating_points(p[:, c], (y == c).astype(np.int64)) for c in present] if len(present) > 1 else []
    predicted = p.argmax(1)
    return {
        "AUROC": _mean([auroc(points) for points in each]),
        "AUPRC": _mean([average_precision(points) for points in each]),
        "NLL": float(-np.log(np.clip(p[np.arange(len(y)), y], CLIP, 1 - CLIP)).mean()),
        "Brier": float(np.square(p - np.eye(p.shape[1])[y]).sum(1).mean()),
        "ECE": expected_calibration_error(p, y, bins=bins),
        "Acc": float((predicted == y).mean()),
        "Sens95": _mean([sensitivity_at(points, specificity) for points in each]),
        "BalancedAcc": _mean([float((predicted[y == c] == c).mean()) for c in present]),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def metrics(p: Array, y: Array, **options: Any) -> dict[str, float]:
    """``binary_metrics`` of [N], ``multiclass_metrics`` of [N, C]."""
    return (binary_metrics if np.asarray(p).ndim == 1 else multiclass_metrics)(p, y, **options)
