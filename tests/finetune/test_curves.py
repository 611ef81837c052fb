from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from dinov3.finetune.curves import draw_curves, precision_recall_curve, roc_curve
from dinov3.finetune.measures.metrics import MetricError


def sample(seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    p = np.round(random.random(n), 2)
    return p, (random.random(n) < p).astype(int)


def test_the_curves_are_scikit_learns() -> None:
    p, y = sample()
    fpr, tpr, _ = reference.roc_curve(y, p, drop_intermediate=False)
    found = roc_curve(p, y)
    np.testing.assert_allclose(found[0], fpr)
    np.testing.assert_allclose(found[1], tpr)
    precision, recall, _ = reference.precision_recall_curve(y, p)
    found = precision_recall_curve(p, y)
    np.testing.assert_allclose(found[0][::-1], recall[:-1])
    np.testing.assert_allclose(found[1][::-1], precision[:-1])


def test_pictures_name_every_classifier_with_its_area(tmp_path: Path) -> None:
    predictions = {"full": sample(), "int8-lora": sample(1)}
    for name in ("a.png", "a.svg", "b.svg"):
        draw_curves(predictions, tmp_path / name)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1485, 484)
        assert len(picture.convert("L").getcolors() or []) > 20
    text = (tmp_path / "a.svg").read_text()
    for name, (p, y) in predictions.items():
        assert f"{name}: {reference.roc_auc_score(y, p):.4f}" in text
    assert text == (tmp_path / "b.svg").read_text()  # the same predictions, the same file


def test_what_has_no_curve_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    p, _ = sample()
    for predictions, name, text in (
        ({"x": (p, np.ones(200, dtype=int))}, "a.png", "both classes"),
        ({}, "a.png", "nothing to draw"),
        ({"x": sample()}, "a.jpg", r"\.png or \.svg"),
    ):
        with pytest.raises(MetricError, match=text):
            draw_curves(predictions, tmp_path / name)
    assert not list(tmp_path.iterdir())
