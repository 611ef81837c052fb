"""The weights that are kept: the best validation, NaN the worst, ties by NLL, and what a kill goes back to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinov3.finetune.selection import best, drop_others, kept, place_of
from dinov3.runs.folder import RunFolder


def rows(*values: tuple[float | None, float]) -> list[dict[str, Any]]:
    return [{"step": i, "val_AUROC": a, "val_NLL": n, "val_ECE": n} for i, (a, n) in enumerate(values)]


@pytest.mark.parametrize(
    ("found", "metric", "step"),
    [
        (rows((0.5, 1), (0.9, 1), (0.8, 0.1)), "AUROC", 1),
        (rows((0.9, 1), (0.9, 0.5), (0.9, 0.7)), "AUROC", 1),
        (rows((0.9, 1), (0.9, 1)), "AUROC", 0),
        (rows((None, 0.1), (0.2, 5)), "AUROC", 1),
        (rows((0.5, 0.3), (0.9, 0.4)), "ECE", 0),
        (rows((None, 0.3), (None, 0.2)), "AUROC", 1),
    ],
)
def test_the_best_row(found: list[dict[str, Any]], metric: str, step: int) -> None:
    chosen = best(found, metric)
    assert chosen is not None
    assert chosen["step"] == step


def test_rows_that_are_no_validation_are_passed_over() -> None:
    assert best([{"step": 0, "knn_accuracy": 0.5}], "AUROC") is None


def test_the_best_up_to_the_newest_checkpoint_stays_until_the_next_is_there(tmp_path: Path) -> None:
    run, found = RunFolder(tmp_path), rows((0.5, 1), (0.7, 1), (0.9, 1))
    for row in found:
        place_of(run, row["step"]).mkdir(parents=True)
    (tmp_path / "ckpt" / "step-00000001").mkdir(parents=True)
    drop_others(run, found, "AUROC")
    assert [p.name for p in sorted((tmp_path / "selected").iterdir())] == ["step-00000001", "step-00000002"]
    (tmp_path / "ckpt" / "step-00000002").mkdir()
    drop_others(run, found, "AUROC")
    assert [p.name for p in (tmp_path / "selected").iterdir()] == ["step-00000002"]


def test_a_best_one_that_is_gone_is_not_chosen(tmp_path: Path) -> None:
    run, found = RunFolder(tmp_path), rows((0.5, 1), (0.9, 1))
    place_of(run, 0).mkdir(parents=True)
    chosen = kept(run, found, "AUROC")
    assert chosen is not None
    assert chosen["step"] == 0
