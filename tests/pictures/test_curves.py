from __future__ import annotations

from pathlib import Path

from PIL import Image

from dinov3.pictures.curves import MOST_POINTS, curves, panels_of

BASE = {"total_loss": 2.0, "dino_global_crops_loss": 1.0, "backbone_grad_norm": 0.1, "lr": 1e-3, "mom": 0.99}


def test_panels_show_what_was_measured_and_nothing_else() -> None:
    rows = [{"iteration": i, **BASE} for i in range(5)]
    assert [p.title for p in panels_of(rows)] == [
        "loss",
        "gradient norm before clipping",
        "learning rate",
        "teacher: momentum, temperature",
    ]
    accuracy = panels_of(rows, [{"step": 0, "knn_accuracy": 0.1}, {"step": 5, "knn_accuracy": 0.4}])[-1]
    assert accuracy.lines == {"k-NN": ([0, 5], [10.0, 40.0])}


def test_a_term_that_begins_late_has_a_line_from_there() -> None:
    rows = [{"iteration": 0, **BASE}, {"iteration": 1, **BASE, "gram_loss": 0.5}]
    assert panels_of(rows)[0].lines["gram"] == ([1], [0.5])


def test_long_runs_are_thinned() -> None:
    rows = [{"iteration": i, **BASE} for i in range(10 * MOST_POINTS + 1)]
    assert len(panels_of(rows)[0].lines["total"][0]) <= MOST_POINTS


def test_a_png_has_four_panels_a_row(tmp_path: Path) -> None:
    rows = [{"iteration": i, **BASE} for i in range(5)]
    curves(rows, tmp_path / "a.png")
    curves(rows, tmp_path / "b.png", [{"step": 0, "knn_accuracy": 0.1}])
    one, two = Image.open(tmp_path / "a.png"), Image.open(tmp_path / "b.png")
    assert two.width == one.width
    assert two.height == 2 * one.height
