"""Logistic regression on frozen features, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C, the inverse of the L2 penalty, for standardised features
HELD_OUT = 10  # every tenth training row chooses it


def fit_logreg(features: Tensor, labels: Tensor, *, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> Any:
    """A scikit-learn pipeline (standardise, L2 logistic regression), its strength chosen on held-out training rows.

    ``features [N, D]``, ``labels [N]``. Raises ModuleNotFoundError without scikit-learn.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = features.float().cpu().numpy(), labels.cpu().numpy()
    order = np.random.default_rng(seed).permutation(len(x))
    held = np.arange(len(x)) % HELD_OUT == 0
    rest, chosen_by = order[~held], order[held]

    def fitted(strength: float, rows: np.ndarray[Any, Any]) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        return model.fit(x[rows], y[rows])

    best = max(strengths, key=lambda c: fitted(c, rest).score(x[chosen_by], y[chosen_by]))
    return fitted(best, order)
