"""What a run says of its k-NN accuracies when it has ended."""

from __future__ import annotations

from typing import Any

import pytest

from dinov3.config.schema import Config
from dinov3.eval.online.knn import Knn

ROWS = [{"step": 0, "knn_accuracy": 0.5}, {"step": 9, "knn_accuracy": 0.75}]


@pytest.mark.parametrize(
    ("stem", "weights", "began"),
    [
        ("patch", "", "untrained"),
        ("whitened", "", "with its fitted stem alone"),
        ("whitened", "weights.pth", "at the start"),
    ],
)
def test_the_first_accuracy_is_called_by_what_the_backbone_knew(stem: Any, weights: str, began: str) -> None:
    cfg = Config()
    cfg.student.stem, cfg.student.pretrained_weights = stem, weights
    said = Knn(cfg).sentence(ROWS)
    assert said == f"k-NN accuracy of the EMA backbone: 50.0 % {began}, 75.0 % after 9 steps"
