"""Golden sets are in tests/golden (G06); here: scikit-learn, slow loops, many classes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from dinov3.finetune.measures.metrics import (
    BINARY,
    MetricError,
    auroc,
    binary_metrics,
    calibration_bins,
    confusion,
    metrics,
    multiclass_metrics,
    operating_points,
    sensitivity_at,
)

SETS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=40)


def arrays(pairs: list[tuple[int, int]]) -> tuple[Any, Any]:
    return np.array([p / 12 for p, _ in pairs]), np.array([y for _, y in pairs])


@settings(deadline=None)
@given(SETS)
def test_scikit_learn_agrees_on_any_set_with_ties(pairs: list[tuple[int, int]]) -> None:
    p, y = arrays(pairs)
    found = binary_metrics(p, y)
    assert found["Acc"] == reference.accuracy_score(y, p >= 0.5)
    assert found["Brier"] == pytest.approx(float(np.square(p - y).mean()), abs=1e-12)
    assert found["NLL"] == pytest.approx(reference.log_loss(y, np.stack([1 - p, p], 1), labels=[0, 1]), rel=1e-9)
    if len(set(y.tolist())) == 1:
        assert all(np.isnan(found[name]) for name in ("AUROC", "AUPRC", "BalancedAcc"))
        assert found["Sens95"] == 0.0
        return
    assert found["AUROC"] == pytest.approx(reference.roc_auc_score(y, p), abs=1e-12)
    assert found["AUPRC"] == pytest.approx(reference.average_precision_score(y, p), abs=1e-12)
    assert found["BalancedAcc"] == pytest.approx(reference.balanced_accuracy_score(y, p >= 0.5), abs=1e-12)
    fpr, tpr, _ = reference.roc_curve(y, p, drop_intermediate=False)
    negatives = round(float((y == 0).sum()))
    allowed = [t for f, t in zip(fpr[1:], tpr[1:], strict=True) if 20 * round(negatives * (1 - f)) >= 19 * negatives]
    assert found["Sens95"] == pytest.approx(max(allowed, default=0.0), abs=1e-12)


@given(SETS)
def test_the_area_is_what_a_loop_over_pairs_counts(pairs: list[tuple[int, int]]) -> None:
    p, y = arrays(pairs)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in p[y == 1] for b in p[y == 0]]
    found = auroc(operating_points(p, y))
    assert (np.isnan(found) and not wins) or found == pytest.approx(sum(wins) / len(wins), abs=1e-12)


def test_a_certain_mistake_is_a_calibration_error_of_one() -> None:
    """np.digitize would put confidence 1 into a bin nobody sums."""
    found = binary_metrics(np.ones(4), np.zeros(4, dtype=int))
    assert found["ECE"] == 1.0
    assert 36 < found["NLL"] < 37
    assert calibration_bins(np.ones(4), np.zeros(4, dtype=int))[-1].tolist() == [4.0, 0.0, 1.0]


def test_a_specificity_of_exactly_95_per_cent_counts() -> None:
    p = np.concatenate([np.linspace(0.01, 0.4, 19), [0.6], [0.55, 0.7]])
    y = np.array([0] * 20 + [1, 1])
    assert sensitivity_at(operating_points(p, y)) == 1.0
    assert sensitivity_at(operating_points(p, y), 0.951) == 0.5


def test_many_classes_are_macro_means_of_one_against_the_rest() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4), 200)
    y = np.array([random.choice(4, p=row) for row in p])
    found = multiclass_metrics(p, y)
    assert found["AUROC"] == pytest.approx(reference.roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=1e-12)
    one_hot = np.eye(4)[y]
    assert found["AUPRC"] == pytest.approx(reference.average_precision_score(one_hot, p, average="macro"), abs=1e-12)
    assert found["NLL"] == pytest.approx(reference.log_loss(y, p), rel=1e-9)
    assert found["BalancedAcc"] == pytest.approx(reference.balanced_accuracy_score(y, p.argmax(1)), abs=1e-12)
    assert found["Brier"] == pytest.approx(float(np.square(p - one_hot).sum(1).mean()), abs=1e-12)
    assert found.keys() == binary_metrics(p[:, 1], (y == 1).astype(int)).keys() >= set(BINARY)


def test_two_columns_are_the_binary_case() -> None:
    random = np.random.default_rng(1)
    p = random.random(100)
    y = (random.random(100) < p).astype(int)
    binary, both = metrics(p, y), metrics(np.stack([1 - p, p], axis=1), y)
    for name in ("AUROC", "NLL", "ECE", "Acc", "BalancedAcc"):
        assert both[name] == pytest.approx(binary[name], abs=1e-9)
    assert both["Brier"] == pytest.approx(2 * binary["Brier"])


def test_a_class_that_never_occurs_is_left_out_of_the_means() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    y = np.array([0, 1, 0, 1])
    found = multiclass_metrics(p, y)
    assert found["AUROC"] == found["BalancedAcc"] == 1.0
    assert np.isnan(multiclass_metrics(p, np.zeros(4, dtype=int))["AUROC"])


@pytest.mark.parametrize(
    ("p", "y", "text"),
    [
        ([0.5], [2], "whole numbers from 0 to 1"),
        ([0.5, 0.5], [0.5, 1], "whole numbers"),
        ([1.5], [1], "in 0..1"),
        ([float("nan")], [1], "in 0..1"),
        ([], [], "N at least 1"),
        ([0.5, 0.5], [1], r"\(2,\) and labels \(1,\)"),
    ],
)
def test_what_no_metric_is_defined_for_is_refused(p: list[float], y: list[float], text: str) -> None:
    with pytest.raises(MetricError, match=text):
        binary_metrics(np.array(p), np.array(y))


def test_confusion_counts_every_image_once_by_its_class_and_what_it_is_taken_for() -> None:
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]])
    assert confusion(p, np.array([0, 0, 2, 1])).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert confusion(np.array([0.5, 0.49, 0.9]), np.array([1, 1, 0])).tolist() == [[0, 1], [1, 1]]
