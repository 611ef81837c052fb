"""Scores of whole images are those of the depth metrics, image by image."""

from __future__ import annotations

import pytest
import torch

from dinov3.data.decode import USUAL
from dinov3.dense.depth_metrics import depth_scores, table_of, valid_pixels
from dinov3.dense.feeding import Feeding
from dinov3.dense.sets import open_parts
from dinov3.depth.measured import MeasuredSet
from dinov3.depth.scoring import Scorer
from dinov3.engine.precision import resolve
from tests.depth.test_estimator import made


def test_scores_are_those_of_the_depth_metrics() -> None:
    measured = MeasuredSet(open_parts("Synthetic:n=15:size=32", "depth")[1], 0.5, 60.0, USUAL)
    scorer = Scorer(Feeding((0.5,) * 3, (0.25,) * 3), resolve("fp32", torch.device("cpu")), True, False, threads=1)
    estimator, rows = made(), []
    for index in range(3):
        pixels, truth = measured.read(index, 3)
        said = scorer.predict(estimator, pixels).clamp(0.5, 60)
        depth = torch.from_numpy(truth)
        rows.append(depth_scores(said, depth, valid_pixels(depth, 0.5, 60.0)))
    assert scorer.score(estimator, measured, range(3)).scores == pytest.approx(table_of(rows))
