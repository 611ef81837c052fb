"""Every section in its tiny form: that it runs, and that each of its items ends well or says why it cannot be here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_sections.child import run_section
from benchmarks.gpu_sections.plan import SECTIONS, Settings
from benchmarks.gpu_sections.report import Report, Row
from benchmarks.gpu_sections.resume import difference
from benchmarks.gpu_sections.speed import RECIPES, processor_seconds_of_workers
from dinov3.runs.folder import RunFolder

SLOW = {"D", "E", "F", "J", "K", "L", "M", "O"}  # they compile, or start processes that train; J to L and O are G again
LETTERS = [pytest.param(s.letter, marks=[pytest.mark.nightly] if s.letter in SLOW else []) for s in SECTIONS]


def records_of(letter: str, folder: Path, seconds: float = 200) -> list[Row]:
    settings = Settings(device="cpu", out=str(folder / "r.json"), folder=str(folder), seconds=seconds)
    report = Report(folder / "r.json")
    report.begin({})
    run_section(letter, settings)
    records: list[Row] = report.read()["records"]
    return records


@pytest.mark.parametrize("letter", LETTERS)
def test_a_section_runs_in_its_tiny_form(letter: str, tmp_path: Path) -> None:
    records = records_of(letter, tmp_path)
    assert {r["section"] for r in records} == {letter}
    assert [(r["item"], r.get("error", r)) for r in records if r["status"] not in ("ok", "skipped")] == []
    assert sum(r["status"] == "ok" for r in records) >= (1 if letter in "EM" else 2 if letter == "N" else 3)
    speed = [r for r in records if r["item"] == "step"]
    assert len(speed) == (letter in "GIJKLO")
    assert all(r["keys"] == [f"{k}={v}" for k, v in RECIPES[letter].more.items()] for r in speed)
    assert all({"recompiles", "limit_hits", "compile_seconds"} <= set(r["compiled"]) for r in speed)


def test_processor_time_of_processes_below_this_one_is_counted() -> None:
    before = processor_seconds_of_workers()
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(9**8)); print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        spent = processor_seconds_of_workers() - before
        process.stdin.write(b"\n")
    assert spent > 0.1  # a grandchild's


def test_the_device_feed_and_a_save_beside_training_are_checked(tmp_path: Path) -> None:
    from benchmarks.gpu_sections.pieces import feeds, saves

    settings = Settings(device="cpu", out=str(tmp_path / "r.json"), folder=str(tmp_path), seconds=60)
    assert feeds(settings, torch.device("cpu"))["passed"]
    assert saves(settings, torch.device("cpu"))["passed"]


def test_the_recipe_that_learns_is_skipped_without_images_and_told_by_its_looks(tmp_path: Path) -> None:
    from benchmarks.gpu_sections.learn import figures, run
    from benchmarks.gpu_sections.report import SectionReport

    report = Report(tmp_path / "r.json")
    report.begin({})
    settings = Settings(device="cuda", out=str(report.path), folder=str(tmp_path))
    run(SectionReport(report, "M", "cpu", 10), settings)
    assert [(r["status"], r["error"]) for r in report.read()["records"]] == [
        ("skipped", "NotHere: --cifar names no folder with CIFAR-10 in tar shards")
    ]
    (tmp_path / "evaluation.jsonl").write_text('{"step": 0, "knn_accuracy": 0.3}\n{"step": 9, "knn_accuracy": 0.5}\n')
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 8, "images_per_second": 10.0, "total_loss": 2.0}\n')
    found = figures(RunFolder(tmp_path))
    assert (found["knn_at_0"], found["knn"], found["steps"]) == (0.3, 0.5, 9)
    assert figures(RunFolder(tmp_path / "nothing")) == {}


def test_golden_cases_stop_when_the_time_of_their_section_is_over(tmp_path: Path) -> None:
    records = records_of("B", tmp_path, seconds=0)
    assert [r["status"] for r in records] == ["ok", "skipped", "skipped"]


def test_states_are_equal_bit_for_bit_or_the_worst_tensor_is_named() -> None:
    one = {"a": torch.ones(3), "b": torch.tensor([1.0, 2.0]), "step": torch.tensor(6)}
    other = {**one, "b": torch.tensor([1.0, 2.0 + 1e-6])}
    assert difference(one, dict(one)) == {"equal": True, "tensors": 3, "different": 0}
    found = difference(one, other)
    assert (found["equal"], found["different"], found["worst"]) == (False, 1, "b")
    assert 0 < found["relative_difference"] < 1e-5
    assert not difference(one, {"a": one["a"]})["equal"]
    assert not difference({}, {})["equal"], "two runs that saved nothing agree about nothing"
