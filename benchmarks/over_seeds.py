"""Means over seeds, and differences of two arms that are paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def spread(values: Sequence[float], sign: str = "") -> str:
    """``mean ± standard deviation``; the value alone of one, nothing of none. ``sign``: "+" to have it always."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def difference(values: Mapping[int, float], base: Mapping[int, float]) -> tuple[float, float] | None:
    """(mean, half of the 95 % interval, Student's t) of the differences to ``base`` of the seeds both have; None for fewer
    than two."""
    from scipy.special import stdtrit  # dinov3[test]: only tables need it

    pairs = [values[seed] - base[seed] for seed in values if seed in base]
    if len(pairs) < 2:
        return None
    half = float(stdtrit(len(pairs) - 1, 0.975)) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return statistics.mean(pairs), half


def table_of_arms(rows: Sequence[Row], figures: Mapping[str, str], compared: Sequence[str], base: str) -> str:
    """A line an arm (mean ± standard deviation over seeds), then the differences of ``compared`` to ``base``, in Markdown.

    ``rows`` have ``arm``, ``seed`` and figures; ``figures`` maps their keys to the heads of the columns.
    """
    by_arm: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row
    lines = [f"| | seeds | {' | '.join(figures.values())} |", f"|{'---|' * (2 + len(figures))}"]
    for arm, found in by_arm.items():
        cells = [spread([row[key] for row in found.values() if key in row]) for key in figures]
        lines.append(f"| {arm} | {len(found)} | {' | '.join(cells)} |")
    for arm, found in by_arm.items():
        if arm in compared and arm != base and base in by_arm:
            cells = []
            for key in figures:
                values, own = ({s: row[key] for s, row in one.items() if key in row} for one in (found, by_arm[base]))
                off = difference(values, own)
                cells.append("" if off is None else f"{off[0]:+.4f} [{off[0] - off[1]:+.4f}, {off[0] + off[1]:+.4f}]")
            lines.append(f"| {arm} - {base} | {len(found.keys() & by_arm[base].keys())} | {' | '.join(cells)} |")
    return "\n".join(lines)
