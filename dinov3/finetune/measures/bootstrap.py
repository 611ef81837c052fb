"""How sure a metric is: percentile intervals over resampled sets (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dinov3.finetune.measures.metrics import Array, MetricError, checked, metrics


class Interval(NamedTuple):
    """Of one metric over the resamples where it is defined; NaN where it never is."""

    low: float
    high: float
    mean: float
    std: float
    undefined: int  # resamples that lacked a class


def bootstrap(
    p: Array,
    y: Array,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    measure: Callable[[Array, Array], dict[str, float]] = metrics,
) -> dict[str, Interval]:
    """An interval of every metric that ``measure`` gives of ``p`` [N] or [N, C] and ``y`` [N].

    Rows are drawn with replacement by ``numpy.random.default_rng(seed)``, percentiles are linear. Resamples in which a
    metric is NaN (only one class was drawn) are left out of it.
    """
    p, y = checked(p, y)
    if resamples < 1 or not 0 < level < 1:
        raise MetricError(f"{resamples} resamples at level {level:g}: at least 1, and a level between 0 and 1")
    random, found = np.random.default_rng(seed), []
    for _ in range(resamples):  # one after the other: all rows at once would be 8 GB of a million samples
        rows = random.integers(0, len(y), size=len(y))
        found.append(measure(p[rows], y[rows]))
    return {name: _interval(np.array([one[name] for one in found]), level) for name in found[0]}


def _interval(values: Array, level: float) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Interval(np.nan, np.nan, np.nan, np.nan, len(values))
    low, high = np.percentile(defined, [50 * (1 - level), 50 * (1 + level)])
    return Interval(
        float(low),
        float(high),
        float(defined.mean()),
        float(defined.std(ddof=1)) if len(defined) > 1 else float("nan"),
        len(values) - len(defined),
    )
