"""Arms over seeds: what has not been measured yet, means, and differences of two arms that are paired by seed."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_sections.report import git_hash
from benchmarks.learning import machine
from dinov3.system.bars import Bar
from dinov3.system.paths import expanded
from dinov3.system.rows import append_row, read_rows

Row = Mapping[str, Any]


def add_arguments_of_runs(parser: argparse.ArgumentParser) -> None:
    """``--keys`` and ``--out``."""
    about = "changes of all runs, for example train.num_workers=0"
    parser.add_argument("--keys", nargs="+", default=[], metavar="key=value", help=about)
    parser.add_argument("--out", type=expanded, required=True)


def measure_missing(
    path: Path, settings: Row, arms: Sequence[str], seeds: Iterable[int], measure: Callable[[str, int], Row]
) -> list[dict[str, Any]]:
    """All rows of the file ``path``, after ``measure(arm, seed)`` has added those that it lacks, each with ``settings``, commit and machine.

    Ends the program when the file has results of other settings. Raises ValueError for a measurement named as a setting.
    """
    rows = read_rows(path)
    if any(row.get(name) != value for row in rows for name, value in settings.items()):
        sys.exit(f"{path}: has results of other settings: choose another --out")
    done = {(row["arm"], row["seed"]) for row in rows}
    wanted = [(arm, seed) for seed in seeds for arm in arms if (arm, seed) not in done]
    with Bar(len(wanted), about="arms and seeds", unit="runs") as bar:
        for arm, seed in wanted:
            row = {"arm": arm, "seed": seed, **measure(arm, seed)}
            if taken := row.keys() & settings.keys():
                raise ValueError(f"{min(taken)} is a setting and a measurement")
            append_row(path, {**row, **settings, "commit": git_hash(), "machine": machine()})
            bar.update()
    return read_rows(path)


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
