from __future__ import annotations

import numpy as np
import pytest

from dinov3.finetune.measures.bootstrap import bootstrap
from dinov3.finetune.measures.metrics import MetricError, binary_metrics


def sample(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    p = random.random(n)
    return p, (random.random(n) < p).astype(int)


def test_an_interval_holds_the_metric_and_shrinks_with_samples() -> None:
    widths = []
    for n in (60, 600):
        p, y = sample(n)
        found, value = bootstrap(p, y, resamples=100)["AUROC"], binary_metrics(p, y)["AUROC"]
        assert found.low <= value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < 0.6 * widths[0]


def test_the_same_seed_gives_the_same_interval() -> None:
    p, y = sample()
    assert bootstrap(p, y, resamples=20, seed=3) == bootstrap(p, y, resamples=20, seed=3)
    assert bootstrap(p, y, resamples=20, seed=3) != bootstrap(p, y, resamples=20, seed=4)


def test_resamples_without_a_class_are_left_out_and_counted() -> None:
    found = bootstrap(np.array([0.2, 0.9]), np.array([0, 1]), resamples=40)
    assert 0 < found["AUROC"].undefined < 40
    assert found["AUROC"].low == found["AUROC"].high == 1.0
    one_class = bootstrap(np.array([0.2, 0.9]), np.array([1, 1]), resamples=5)["AUROC"]
    assert one_class.undefined == 5
    assert np.isnan(one_class.low)


def test_many_classes_work_too_and_bad_numbers_are_refused() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    assert bootstrap(p, p.argmax(1), resamples=5)["Acc"].low == 1.0
    for options in ({"resamples": 0}, {"level": 1.0}):
        with pytest.raises(MetricError, match="at least 1, and a level between 0 and 1"):
            bootstrap(*sample(), **options)  # type: ignore[arg-type]
