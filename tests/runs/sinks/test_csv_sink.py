from __future__ import annotations

import csv
from pathlib import Path

from dinov3.runs.folder import RunFolder
from dinov3.runs.records import Records
from dinov3.runs.sinks.csv_sink import CsvSink
from dinov3.system.rows import read_rows


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def records(out: Path, resume_at: int = 0) -> Records:
    return Records(RunFolder(out), resume_at, lambda: [CsvSink(out)])


def test_the_table_holds_what_the_jsonl_holds_bit_for_bit(tmp_path: Path) -> None:
    kept = records(tmp_path)
    for step in range(3):
        kept.write({"iteration": step, "total_loss": 1 / (step + 3)})
    kept.evaluation({"step": 0, "knn_accuracy": 0.1})
    rows = [{k: float(v) for k, v in row.items()} for row in table(tmp_path / "metrics.csv")]
    assert rows == read_rows(tmp_path / "metrics.jsonl")
    assert table(tmp_path / "evaluation.csv") == [{"step": "0", "knn_accuracy": "0.1"}]


def test_a_value_that_comes_later_is_a_new_column_for_all_rows(tmp_path: Path) -> None:
    kept = records(tmp_path)
    kept.write({"iteration": 0, "a": 1})
    kept.write({"iteration": 1, "a": 2, "b": 3})
    kept.write({"iteration": 2, "a": 4})
    assert [(r["a"], r["b"]) for r in table(tmp_path / "metrics.csv")] == [("1", ""), ("2", "3"), ("4", "")]


def test_steps_that_run_again_stand_there_once_also_when_it_is_switched_on_late(tmp_path: Path) -> None:
    without = Records(RunFolder(tmp_path), 0)
    for step in range(4):
        without.write({"iteration": step, "turn": 1})
    without.close()
    kept = records(tmp_path, resume_at=2)
    kept.write({"iteration": 2, "turn": 2})
    assert [(r["iteration"], r["turn"]) for r in table(tmp_path / "metrics.csv")] == [
        ("0", "1"),
        ("1", "1"),
        ("2", "2"),
    ]
