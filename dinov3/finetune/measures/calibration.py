"""One temperature for all logits, fitted on held-out samples (Guo et al. 2017)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dinov3.finetune.measures.metrics import Array, MetricError

LOWEST, HIGHEST = 0.05, 20.0
HALVINGS = 100  # of the interval of 1 / T: to the last bit


class Temperature(NamedTuple):
    """``at_bound``: no fit but the end of the range. The samples can be told apart without error, or not at all."""

    temperature: float
    at_bound: bool


def softmax(logits: Array) -> Array:
    """[N, C] -> [N, C], rows sum to 1."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(1, keepdims=True)
    return probabilities


def fit_temperature(logits: Array, y: Array) -> Temperature:
    """T in [LOWEST, HIGHEST] with the smallest mean NLL of softmax(logits / T); ``logits`` [N, C], ``y`` [N].

    The NLL is convex in 1 / T, so the sign of its slope is bisected. Logits that are the same for all classes give 1.
    """
    logits, y = np.asarray(logits, dtype=np.float64), np.asarray(y).astype(np.int64)
    if logits.ndim != 2 or y.shape != logits.shape[:1] or not len(y) or not np.isfinite(logits).all():
        raise MetricError(f"logits {logits.shape} and labels {y.shape}: give finite [N, C] and [N]")
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise MetricError(f"labels {y.min()} to {y.max()}: there are {logits.shape[1]} classes")
    own = logits[np.arange(len(y)), y]

    def slope(inverse: float) -> float:
        return float(((softmax(inverse * logits) * logits).sum(1) - own).mean())

    low, high = 1 / HIGHEST, 1 / LOWEST
    if not np.ptp(logits, axis=1).any():
        return Temperature(1.0, at_bound=False)
    if slope(low) >= 0:
        return Temperature(HIGHEST, at_bound=True)
    if slope(high) <= 0:
        return Temperature(LOWEST, at_bound=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Temperature(2 / (low + high), at_bound=False)
