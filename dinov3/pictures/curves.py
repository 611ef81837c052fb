"""What a run wrote down, as curves over steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dinov3.pictures.pca import INK, MUTED

COLUMNS = 4
MOST_POINTS = 1500  # of a line; more is not to be seen and makes pages of megabytes
Row = Mapping[str, Any]

DRIFT = {
    "drift_cls_cosine": "CLS cosine",
    "drift_cls_cka": "CLS CKA",
    "drift_patch_cosine": "patch cosine",
    "drift_patch_cka": "patch CKA",
}


@dataclass(frozen=True)
class Panel:
    """One small plot: lines by label, each as (steps, values)."""

    title: str
    lines: dict[str, tuple[list[float], list[float]]]
    dots: bool = False


def panels_of(rows: Sequence[Row], evaluations: Sequence[Row] = ()) -> list[Panel]:
    """The panels of a run, those that have something to show. ``rows``: of metrics.jsonl; ``evaluations``: of evaluation.jsonl."""
    losses, norms = _named(rows, "_loss"), _named(rows, "_grad_norm")
    chosen: list[tuple[str, dict[str, str], Sequence[Row], str, float]] = [
        ("loss", losses, rows, "iteration", 1),
        ("gradient norm before clipping", norms, rows, "iteration", 1),
        ("learning rate", {"lr": "lr"}, rows, "iteration", 1),
        ("teacher: momentum, temperature", {"mom": "momentum", "teacher_temp": "temperature"}, rows, "iteration", 1),
        (
            "targets, nats",
            {
                "dino_teacher_entropy": "entropy, CLS",
                "ibot_teacher_entropy": "entropy, patches",
                "dino_teacher_student_kl": "teacher to student",
            },
            rows,
            "iteration",
            1,
        ),
        (
            "variety (0: collapsed)",
            {
                "cls_spread": "class tokens",
                "dino_prototype_usage": "prototypes",
                "ibot_prototype_usage": "patch prototypes",
            },
            rows,
            "iteration",
            1,
        ),
        ("images/s", {"images_per_second": "images/s"}, rows, "iteration", 1),
        ("waiting for data, % of the time", {"data_wait": "data wait"}, rows, "iteration", 100),
        (
            "accuracy of frozen features, %",
            {"knn_accuracy": "k-NN", "linear_accuracy": "linear probe"},
            evaluations,
            "step",
            100,
        ),
        ("effective rank of class tokens", {"rankme": "RankMe"}, evaluations, "step", 1),
        ("likeness to the features at the start", DRIFT, evaluations, "step", 1),
    ]
    panels = []
    for title, keys, source, over, scale in chosen:
        lines = {label: _line(source, over, key, scale) for key, label in keys.items()}
        lines = {label: line for label, line in lines.items() if line[0]}
        if lines:
            panels.append(Panel(title, lines, dots=over == "step"))
    return panels


def _named(rows: Sequence[Row], ending: str) -> dict[str, str]:
    """Keys of the first and the last row that end so, with their labels; a term may begin late."""
    keys = dict.fromkeys(key for row in (*rows[:1], *rows[-1:]) for key in row)
    return {k: k.removesuffix(ending).replace("_", " ") for k in keys if k.endswith(ending) and "/" not in k}


def _line(rows: Sequence[Row], over: str, key: str, scale: float) -> tuple[list[float], list[float]]:
    points = [(row[over], scale * row[key]) for row in rows if row.get(key) is not None]
    points = points[:: max(1, -(-len(points) // MOST_POINTS))]
    return [x for x, _ in points], [y for _, y in points]


def draw_panels(panels: Sequence[Panel], out: Path | io.BytesIO, form: str) -> None:
    """Write the panels as a PNG or SVG, four a row."""
    n_rows = -(-len(panels) // COLUMNS)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dinov3"}):
        figure, axes = plt.subplots(n_rows, COLUMNS, figsize=(4.0 * COLUMNS, 2.9 * n_rows), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw(axis, panel)
        figure.tight_layout()
        figure.savefig(out, format=form, dpi=100)
        plt.close(figure)


def _draw(axis: Any, panel: Panel) -> None:
    for label, (steps, values) in panel.lines.items():
        axis.plot(steps, values, label=label, linewidth=1.4, marker="o" if panel.dots else None, markersize=3)
    axis.set_title(panel.title, loc="left", fontsize=10, color=INK)
    if len(panel.lines) > 1:
        axis.legend(fontsize=7, frameon=False)
    axis.set_xlabel("step", fontsize=8, color=MUTED)
    axis.tick_params(labelsize=8, colors=MUTED)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def curves(rows: Sequence[Row], path: Path, evaluations: Sequence[Row] = ()) -> None:
    """Write every panel of a run as a PNG."""
    draw_panels(panels_of(rows, evaluations), path, "png")
