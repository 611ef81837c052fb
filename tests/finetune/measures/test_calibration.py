from __future__ import annotations

import numpy as np
import pytest

from dinov3.finetune.measures.calibration import HIGHEST, LOWEST, fit_temperature, softmax
from dinov3.finetune.measures.metrics import MetricError, multiclass_metrics


def overconfident(n: int = 3000, classes: int = 5, temperature: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    honest = random.normal(0, 1.5, (n, classes))
    y = np.array([random.choice(classes, p=row) for row in softmax(honest)])
    return temperature * honest, y


def test_the_temperature_that_was_put_in_comes_out() -> None:
    logits, y = overconfident()
    fit = fit_temperature(logits, y)
    assert fit.temperature == pytest.approx(3.0, rel=0.05)
    assert not fit.at_bound


def test_no_neighbouring_temperature_is_better() -> None:
    logits, y = overconfident(400)
    best = fit_temperature(logits, y).temperature
    nll = {t: multiclass_metrics(softmax(logits / t), y)["NLL"] for t in (best, best * 1.01, best * 0.99, 1.0)}
    assert min(nll, key=lambda t: nll[t]) == best


def test_ends_of_the_range_are_reported_and_equal_logits_left_alone() -> None:
    certain = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(certain, np.array([0, 1])) == (LOWEST, True)
    assert fit_temperature(certain, np.array([1, 0])) == (HIGHEST, True)
    assert fit_temperature(np.ones((4, 3)), np.array([0, 1, 2, 0])) == (1.0, False)


def test_bad_input_is_refused() -> None:
    with pytest.raises(MetricError, match="there are 2 classes"):
        fit_temperature(np.zeros((3, 2)), np.array([0, 1, 2]))
    with pytest.raises(MetricError, match="finite"):
        fit_temperature(np.full((3, 2), np.nan), np.array([0, 1, 1]))
