from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning import LOGS, cost
from benchmarks.records import TABLE, Entry, is_record, records_page, welch


def entry(*values: float, seconds: float = 100.0, **changes: Any) -> Entry:
    rows = [{"knn_100": v, "train_seconds": seconds, "machine": "m", "threads": 2, **changes} for v in values]
    return Entry("log", rows)


def test_the_table_of_records_is_made_from_its_logs() -> None:
    assert TABLE.read_text() == records_page(LOGS)


def test_a_chance_is_that_of_welchs_t_test() -> None:
    # t = 3.674235 with 4 degrees of freedom: p = 0.010656, one-sided
    assert welch([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(0.010656, abs=1e-6)
    assert welch([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(1 - 0.010656, abs=1e-6)
    assert welch([0.5], [0.1, 0.2]) == 1.0
    assert (welch([1.0, 1.0], [0.5, 0.5]), welch([0.5, 0.5], [0.5, 0.5])) == (0.0, 1.0)


def test_a_record_is_surely_better_or_faster_and_not_worse() -> None:
    old = entry(0.40, 0.41, 0.42)
    assert is_record(entry(0.1, 0.2, 0.3), None)
    assert is_record(entry(0.50, 0.51, 0.52), old)
    assert not is_record(entry(0.50, 0.51), old), "two seeds"
    assert not is_record(entry(0.41, 0.42, 0.43), old), "by chance"
    assert is_record(entry(0.40, 0.41, 0.42, seconds=50.0), old)
    assert not is_record(entry(0.30, 0.31, 0.32, seconds=50.0), old), "faster and worse"
    assert not is_record(entry(0.40, 0.41, 0.42, seconds=50.0, machine="another"), old)
    busy = "2 cores, shared with others: seconds say nothing"
    assert not is_record(entry(0.40, 0.41, 0.42, seconds=50.0, machine=busy), entry(0.40, 0.41, 0.42, machine=busy))


def test_a_page_names_change_seeds_and_the_worst(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    row = (
        '{"recipe": "tiny", "change": "as it was", "seed": %d, "commit": "abc", "knn_100": %f, "knn_20": 0.3, "linear": 0.4, '
        '"rankme": 5.0, "steps": 600, "images": 38400, "train_seconds": 60, "threads": 1, "machine": "m", "keys": ["a=b"]}\n'
    )
    (tmp_path / "tiny" / "00-first.jsonl").write_text("".join(row % (seed, 0.4 + seed / 100) for seed in range(3)))
    line = records_page(tmp_path).splitlines()[-1]
    assert line.startswith(
        "| [00-first](records/tiny/00-first.jsonl) | **record** | as it was: `a=b` (abc) | 0, 1, 2 |"
    )
    assert "| 41.0 ± 1.0 (40.0) |" in line
    assert "| 600 | 38,400 | 60 (1 of m) |" in line


def test_the_cost_of_a_run_is_its_training_alone() -> None:
    rows = [{"iteration": i, "samples": 64 * (i + 1), "images_per_second": 32.0} for i in (0, 10, 19)]
    assert cost(rows) == {"steps": 20, "images": 1280, "train_seconds": 40.0, "images_per_second": 32.0}
