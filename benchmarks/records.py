"""The table of records, made from the logs of ``benchmarks/learning.py``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinov3.system.rows import Row, read_rows

TABLE = Path(__file__).resolve().parent / "records.md"
SEEDS, P = (
    3,
    0.01,
)  # a record has at least so many seeds, and is better than the one before with this probability of chance
SHARED = "shared"  # stands in the name of a machine whose seconds say nothing
WHAT = "knn_100"  # a record is one of this
HEAD = """# Records

Made by `python -m benchmarks.learning table` from the logs in [records/](records/), a JSON line a run. Each line of a table names its log.

A **record** has {seeds} seeds or more and either a higher mean k-NN accuracy than the record before it at p < {p:g} (Welch's t test, one-sided), or no lower
a one (p of being lower at least {p:g}) in less time of training on the same machine, shared with nobody, and as many threads. Everything else is an ablation, or a step on the way.

k-NN: accuracy of frozen CLS tokens of the EMA backbone in %, weighted votes of 100 (and 20) neighbours; mean ± standard deviation over seeds, in
brackets the worst seed. Seconds are of training alone, without evaluations and saves: **comparable only where machine and threads are the same, and the
machine was idle**; images are comparable anywhere.
"""


@dataclass(frozen=True)
class Entry:
    """All runs of one log."""

    log: str  # name of the file
    rows: Sequence[Row]

    def values(self, key: str) -> list[float]:
        return [float(row[key]) for row in self.rows if row.get(key) is not None]

    @property
    def first(self) -> Row:
        return self.rows[0]


def welch(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Probability by chance of a mean of ``higher`` so far above that of ``lower``: Welch's t test, one-sided.

    1 when one of them has a single value; 0 or 1 when neither has any spread.
    """
    if min(len(higher), len(lower)) < 2:
        return 1.0
    from scipy.stats import ttest_ind  # dinov3[test]: only the table needs it

    if statistics.pstdev(higher) == statistics.pstdev(lower) == 0:
        return float(statistics.mean(higher) <= statistics.mean(lower))
    return float(ttest_ind(higher, lower, equal_var=False, alternative="greater").pvalue)


def is_record(new: Entry, best: Entry | None) -> bool:
    """Whether ``new`` takes the place of ``best``."""
    if len(new.rows) < SEEDS:
        return False
    if best is None or welch(new.values(WHAT), best.values(WHAT)) < P:
        return True
    same = (
        all(new.first[key] == best.first[key] for key in ("machine", "threads")) and SHARED not in new.first["machine"]
    )
    faster = statistics.mean(new.values("train_seconds")) < statistics.mean(best.values("train_seconds"))
    return same and faster and welch(best.values(WHAT), new.values(WHAT)) >= P


def records_page(logs: Path) -> str:
    """The text of ``records.md``: a table a recipe, logs in the order of their names."""
    parts = [HEAD.format(seeds=SEEDS, p=P)]
    for folder in sorted(path for path in logs.iterdir() if path.is_dir()):
        entries = [Entry(path.stem, rows) for path in sorted(folder.glob("*.jsonl")) if (rows := read_rows(path))]
        parts += [f"\n## {folder.name}\n", *_table(entries, folder.name)]
    return "\n".join(parts).rstrip() + "\n"


COLUMNS = ("log", "record", "change", "seeds", "k-NN 100", "k-NN 20", "linear", "RankMe", "steps", "images", "seconds")


def _table(entries: Sequence[Entry], recipe: str) -> list[str]:
    lines = [f"| {' | '.join((*COLUMNS, 'p'))} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    best: Entry | None = None
    for entry in entries:
        p = None if best is None else welch(entry.values(WHAT), best.values(WHAT))
        record = is_record(entry, best)
        lines.append(f"| {' | '.join(_cells(entry, recipe, record, p))} |")
        best = entry if record else best
    return lines


def _cells(entry: Entry, recipe: str, record: bool, p: float | None) -> list[str]:
    first = entry.first
    keys = f": `{' '.join(first['keys'])}`" if first.get("keys") else ""
    return [
        f"[{entry.log}](records/{recipe}/{entry.log}.jsonl)",
        "**record**" if record else "",
        f"{first['change']}{keys} ({_commits(entry)})",
        ", ".join(str(row["seed"]) for row in entry.rows),
        *(_percent(entry.values(key)) for key in (WHAT, "knn_20", "linear")),
        f"{statistics.mean(entry.values('rankme')):.1f}",
        f"{first['steps']:,}",
        f"{first['images']:,}",
        f"{statistics.mean(entry.values('train_seconds')):.0f} ({first['threads']} of {first['machine']})",
        "" if p is None else _chance(p),
    ]


def _commits(entry: Entry) -> str:
    return ", ".join(dict.fromkeys(str(row["commit"]) for row in entry.rows))


def _percent(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread} ({100 * min(values):.1f})"


def _chance(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"10^{math.floor(math.log10(p)) if p else '-inf'}"
