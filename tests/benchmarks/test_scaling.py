from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling


def test_one_thing_changes_at_a_time() -> None:
    points = list(scaling.points())
    assert points[0]["axis"] == "base"
    for point in points[1:]:
        changed = [key for key in scaling.BASE if point[key] != scaling.BASE[key]]
        assert changed == [point["axis"]]
    assert len(points) == 1 + sum(len(values) - 1 for values in scaling.GROWING.values())


def answer(rows: list[dict[str, Any]], code: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, "".join(json.dumps(row) + "\n" for row in rows), "out of memory")


def test_a_point_of_several_processes_is_as_fast_as_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return answer([{"seconds_per_step": s, "peak_gib": 3 - s} for s in (1.0, 2.0)])

    monkeypatch.setattr(subprocess, "run", run)
    row = scaling.measured({"axis": "processes", **scaling.BASE, "processes": 2}, 3, "vit_tiny")
    assert row["seconds_per_step"] == 2.0
    assert row["images_per_second"] == 2 * scaling.BASE["batch"] / 2.0
    assert row["peak_gib_of_a_process"] == 2.0
    assert "--nproc-per-node=2" in asked[0]
    assert asked[0][-2:] == ["--prototypes", str(scaling.BASE["prototypes"])]


def test_a_point_that_fails_ends_the_measurement_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: answer([], 1))
    with pytest.raises(SystemExit, match="exit code 1: out of memory"):
        scaling.measured({"axis": "base", **scaling.BASE}, 3, "vit_tiny")


def test_lines_are_printed_and_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaling.tell({"a": 1}, tmp_path / "rows.jsonl")
    scaling.tell({"a": 2}, tmp_path / "rows.jsonl")
    printed = capsys.readouterr().out
    assert (tmp_path / "rows.jsonl").read_text() == printed == '{"a": 1}\n{"a": 2}\n'
