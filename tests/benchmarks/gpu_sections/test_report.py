from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu_sections import report as module
from benchmarks.gpu_sections.report import NotHere, Report, SectionReport, environment


@pytest.fixture
def report(tmp_path: Path) -> Report:
    made = Report(tmp_path / "r.json", {"card": "a card", "torch": "2", "cudnn": 9, "git": "abc"})
    made.begin({"budget": 1})
    return made


def test_whatever_an_item_raises_is_recorded_and_the_next_item_runs(report: Report) -> None:
    section = SectionReport(report, "C", "cpu", 10)
    with section.item("bad") as row:
        row["before"] = 1
        raise RuntimeError("CUDA error: an illegal memory access\nmore lines")
    with section.item("not here"):
        raise NotHere("no GPU")
    with section.item("wrong") as row:
        row["passed"] = False
    with section.item("good") as row:
        row["ms"] = 2.5
    records = report.read()["records"]
    assert [r["status"] for r in records] == ["error", "skipped", "fail", "ok"]
    assert records[0]["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "Traceback" in records[0]["traceback"]
    assert records[0]["before"] == 1
    assert all(r["card"] == "a card" and r["git"] == "abc" and r["seconds"] >= 0 for r in records)


def test_a_process_that_is_killed_leaves_the_items_before_and_whole_json(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.add("A", "first", "ok")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dump", killed)
    with pytest.raises(KeyboardInterrupt):
        report.add("A", "second", "ok")
    monkeypatch.undo()
    assert [r["item"] for r in report.read()["records"]] == ["first"]


def test_two_reports_of_one_file_add_to_it_in_turn(report: Report) -> None:
    report.add("A", "first", "ok")
    Report(report.path, {}).add("B", "second", "ok")
    report.add("A", "third", "ok")
    assert [r["item"] for r in report.read()["records"]] == ["first", "second", "third"]


def test_a_copy_without_a_repository_is_named_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dinov3", "benchmarks"):
        (tmp_path / name).mkdir()
    (tmp_path / "dinov3" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    before = environment()
    (tmp_path / "dinov3" / "a.py").write_text("x = 2\n")
    assert before["git"] is None
    assert environment()["source"] != before["source"]
