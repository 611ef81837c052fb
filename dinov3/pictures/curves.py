"""What a run wrote down, as curves over steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dinov3.pictures.figures import figure, plans
from dinov3.pictures.pca import INK, MUTED
from dinov3.system.rows import is_number

COLUMNS = 2  # letters can be read on a screen of 1,500 px and, just, on one of 500
WIDTH, HEIGHT = 5.4, 2.7  # inches of a panel
LEFT, RIGHT, ABOVE, BELOW = 0.75, 0.15, 0.48, 0.45  # of them beside the axes: numbers, nothing, title and note, steps
DPI = 100
LONGEST_LABEL = 24  # characters of a legend
MOST_POINTS = 1500  # of a line; more is not to be seen and makes pages of megabytes
COLOURS = (
    *("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed"),
    *("#0891b2", "#be185d", "#65a30d", "#4b5563", "#92400e"),
)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One small plot: lines by label, each as (steps, values). ``among``: the labels of a page, in the order of their colours,
    where some panels lack some."""

    title: str
    note: str
    lines: dict[str, tuple[list[float], list[float]]]
    dots: bool = False
    among: Sequence[str] = ()

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each label."""
        return {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(self.among or self.lines)}


def panels_of(rows: Sequence[Row], evaluations: Sequence[Row] = ()) -> list[Panel]:
    """The panels of a run, those that have something to show. ``rows``: of metrics.jsonl; ``evaluations``: of evaluation.jsonl."""
    panels = []
    for plan in plans(ending_in("_loss", rows), ending_in("_grad_norm", rows)):
        source, over = (evaluations, "step") if plan.evaluations else (rows, "iteration")
        lines = {figure(key).label: line_of(source, over, key) for key in plan.keys}
        lines = {label: line for label, line in lines.items() if line[0]}
        if lines:
            panels.append(Panel(plan.title, plan.note, lines, dots=plan.evaluations))
    return panels


def ending_in(ending: str, *runs: Sequence[Row]) -> list[str]:
    """Keys of the first and the last row of each run that end so; a term may begin late."""
    keys = dict.fromkeys(key for rows in runs for row in (*rows[:1], *rows[-1:]) for key in row)
    return [key for key in keys if key.endswith(ending) and "/" not in key]


def line_of(rows: Sequence[Row], over: str, key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of one figure, as people read it; at most MOST_POINTS of them."""
    scale = figure(key).scale
    points = [(row[over], scale * row[key]) for row in rows if is_number(row.get(key)) and is_number(row.get(over))]
    points = points[:: max(1, -(-len(points) // MOST_POINTS))]
    return [x for x, _ in points], [y for _, y in points]


def draw_panels(panels: Sequence[Panel], out: Path | io.BytesIO, form: str, columns: int = COLUMNS) -> None:
    """Write the panels as a PNG or SVG, ``columns`` a row."""
    n_rows = -(-len(panels) // columns)
    # SVG: letters as text; ids that are the same every time
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dinov3", "text.parse_math": False}):
        # not pyplot: it keeps figures, and choosing its backend would change a notebook's own
        figure = Figure(figsize=(WIDTH * columns, HEIGHT * n_rows), dpi=DPI)
        axes = figure.subplots(n_rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw(axis, panel)
        _place(axes, FigureCanvasAgg(figure).get_renderer())
        figure.savefig(out, format=form, dpi=DPI)


def _place(axes: Any, renderer: Any) -> None:
    """Give each axis the room that its letters leave; those below each other are equally wide.

    matplotlib's own layouts draw everything once more to find that out, which is most of the time of a picture.
    """
    n_rows, columns = axes.shape
    for row, column in np.ndindex(n_rows, columns):
        legends = [legend for axis in axes[:, column] if (legend := axis.get_legend()) is not None]
        beside = max((legend.get_window_extent(renderer).width / DPI for legend in legends), default=0)
        inches = WIDTH - LEFT - RIGHT - beside, HEIGHT - ABOVE - BELOW
        corner = WIDTH * column + LEFT, HEIGHT * (n_rows - 1 - row) + BELOW
        page = WIDTH * columns, HEIGHT * n_rows
        axes[row, column].set_position([*(a / b for a, b in zip((*corner, *inches), page * 2, strict=True))])


def _draw(axis: Any, panel: Panel) -> None:
    for label, (steps, values) in panel.lines.items():
        short = label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
        # a name that begins with _ would be hidden by matplotlib
        look = {"color": panel.colours[label], "marker": "o" if panel.dots else None}
        axis.plot(steps, values, label=f" {short}", linewidth=1.4, markersize=3, **look)
    axis.set_title(panel.title, loc="left", fontsize=10.5, color=INK, pad=18, y=1)
    axis.text(0, 1.03, panel.note, transform=axis.transAxes, fontsize=8, color=MUTED)
    if len(panel.lines) > 1:  # beside the curves, never over them
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    axis.set_xlabel("step", fontsize=8, color=MUTED)
    axis.xaxis.set_label_coords(0.5, -0.25 / (HEIGHT - ABOVE - BELOW))
    axis.tick_params(labelsize=8, colors=MUTED)
    axis.yaxis.get_offset_text().set(fontsize=6.5, horizontalalignment="right", x=-0.01)  # not over the note
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def curves(rows: Sequence[Row], path: Path, evaluations: Sequence[Row] = ()) -> None:
    """Write every panel of a run as a PNG."""
    draw_panels(panels_of(rows, evaluations), path, "png")
