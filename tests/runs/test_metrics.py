from __future__ import annotations

from pathlib import Path

from dinov3.runs.metrics import MetricsFile, read_metrics


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = [0.1, 1 / 3, 1e-300, 13.644179344177246]
    file = MetricsFile(path, resume_at=0)
    file.write({"iteration": 0, "values": values})
    file.close()
    assert read_metrics(path)[0]["values"] == values


def test_steps_that_run_again_are_not_in_the_file_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, resume_at=0)
    for step in range(5):
        first.write({"iteration": step, "run": 1})
    first.close()
    second = MetricsFile(path, resume_at=3)
    for step in range(3, 6):
        second.write({"iteration": step, "run": 2})
    second.close()
    assert [(r["iteration"], r["run"]) for r in read_metrics(path)] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iteration": 1, "total_l')
    MetricsFile(path, resume_at=1).close()
    assert path.read_text() == '{"iteration": 0}\n'
