from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dinov3.pictures.curves import DPI, HEIGHT, MOST_POINTS, WIDTH, _draw, _place, curves, panels_of
from dinov3.pictures.figures import FIGURES, plans

BASE = {"total_loss": 2.0, "dino_global_crops_loss": 1.0, "backbone_grad_norm": 0.1, "lr": 1e-3, "mom": 0.99}


def test_panels_show_what_was_measured_and_nothing_else() -> None:
    rows = [{"iteration": i, **BASE} for i in range(5)]
    assert [p.title for p in panels_of(rows)] == [
        "Losses",
        "Gradient norms",
        "Learning rate",
        "Momentum of the EMA teacher",
    ]
    accuracy = panels_of(rows, [{"step": 0, "knn_accuracy": 0.1}, {"step": 5, "knn_accuracy": 0.4}])[1]
    assert accuracy.lines == {"k-NN": ([0, 5], [10.0, 40.0])}


def test_a_term_that_begins_late_has_a_line_from_there() -> None:
    rows = [{"iteration": 0, **BASE}, {"iteration": 1, **BASE, "gram_loss": 0.5}]
    assert panels_of(rows)[0].lines["gram"] == ([1], [0.5])


def test_long_runs_are_thinned() -> None:
    rows = [{"iteration": i, **BASE} for i in range(10 * MOST_POINTS + 1)]
    assert len(panels_of(rows)[0].lines["total"][0]) <= MOST_POINTS


def test_what_has_another_unit_has_an_axis_of_its_own() -> None:
    rows = [{"iteration": i, **BASE, "wd": 0.04, "teacher_temp": 0.07} for i in range(2)]
    drawn = {panel.title: sorted(panel.lines) for panel in panels_of(rows)}
    assert drawn["Momentum of the EMA teacher"] == ["momentum"]
    assert drawn["Temperature of the teacher"] == ["temperature"]
    assert drawn["Weight decay"] == ["weight decay"]


def test_values_that_are_no_numbers_are_passed_over() -> None:
    rows = [{"iteration": i, "total_loss": value} for i, value in enumerate([1.0, "x", None, True, float("nan"), 2.0])]
    assert panels_of(rows)[0].lines["total"] == ([0, 5], [1.0, 2.0])


def test_a_png_has_two_panels_a_row(tmp_path: Path) -> None:
    rows = [{"iteration": i, **BASE} for i in range(5)]
    curves(rows, tmp_path / "a.png")
    curves(rows, tmp_path / "b.png", [{"step": 0, "knn_accuracy": 0.1}])
    one, two = Image.open(tmp_path / "a.png"), Image.open(tmp_path / "b.png")
    assert two.width == one.width
    assert (one.height, two.height) == (540, 810)


def test_a_legend_stands_beside_its_curves() -> None:
    rows = [{"iteration": i, **BASE, "ibot_loss": 1.0} for i in range(5)]
    panels = panels_of(rows)
    figure = Figure(figsize=(2 * WIDTH, 2 * HEIGHT), dpi=DPI)
    axes, renderer = figure.subplots(2, 2), FigureCanvasAgg(figure).get_renderer()
    for axis, panel in zip(axes.flat, panels, strict=True):
        _draw(axis, panel)
    _place(axes, renderer)
    losses, right = axes[0]
    legend = losses.get_legend()
    assert panels[0].title == "Losses"
    assert legend.get_window_extent(renderer).x0 >= losses.get_window_extent().x1
    assert legend.get_window_extent(renderer).x1 <= figure.bbox.x1 / 2
    for axis in axes.flat:  # no letter of one panel in another, nor cut off
        around, (row, column) = axis.get_tightbbox(renderer), np.argwhere(axes == axis)[0]
        assert column * WIDTH * DPI <= around.x0 < around.x1 <= (column + 1) * WIDTH * DPI
        assert (1 - row) * HEIGHT * DPI <= around.y0 < around.y1 <= (2 - row) * HEIGHT * DPI
    assert right.get_position().width > losses.get_position().width, "only a legend takes room"


def test_every_figure_that_is_drawn_is_explained() -> None:
    drawn = {key for plan in plans(["total_loss"], []) for key in plan.keys}
    assert drawn <= set(FIGURES)
    assert all(figure.meaning for figure in FIGURES.values())
    assert all(plan.note for plan in plans([], []))
