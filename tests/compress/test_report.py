"""What several reports in one picture are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinov3.compress import report

ROW = {"value": 0.9, "low": 0.8, "high": 0.95}


def made(**told: str) -> dict[str, Any]:
    side = {"bytes": 1000, "metrics": {"AUROC": ROW, "Acc": ROW}}
    return {"method": "mlp 0.9", "before": side, "after": side, "cosines": [{"where": "output", "mean": 1.0}], **told}


@pytest.mark.parametrize(
    ("others", "metric"),
    [
        ([made(metrics_of="the classifier's own head")], "AUROC"),
        ([made(metrics_of="a linear layer")], None),
        ([made()], None),  # of a program that only fitted linear layers
    ],
)
def test_scores_of_a_head_and_of_a_linear_layer_share_no_axis(
    others: list[dict[str, Any]], metric: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str | None] = []
    monkeypatch.setattr(report, "_draw_sizes", lambda axis, reports, metric: drawn.append(metric))
    report.draw([made(metrics_of="the classifier's own head"), *others], tmp_path / "x.png")
    assert drawn == [metric]
