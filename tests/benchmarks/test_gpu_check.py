from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_sections.plan import SECTIONS, Section, Settings, chosen, estimate, limit, turns
from benchmarks.gpu_sections.report import ROOT, Report


def settings_in(folder: Path) -> Settings:
    return Settings(device="cpu", out=str(folder / "r.json"), folder=str(folder))


def run_codes(folder: Path, monkeypatch: pytest.MonkeyPatch, budget: float, **codes: str) -> list[dict[str, Any]]:
    """The records after sections A, B, ... that run these programs."""
    monkeypatch.setattr(gpu_check, "command_of", lambda section, _: [sys.executable, "-c", codes[section.letter]])
    report = Report(folder / "r.json", {"card": "none"})
    report.begin({})
    sections = [Section(letter, "a program", 1.0, "none") for letter in codes]
    gpu_check.run(report, sections, settings_in(folder), budget)
    records: list[dict[str, Any]] = report.read()["records"]
    return records


def test_a_section_that_crashes_is_recorded_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    codes = {"A": "import os; print('bad news', flush=True); os.abort()", "B": f"open({str(mark)!r}, 'w')"}
    records = run_codes(tmp_path, monkeypatch, 200, **codes)
    assert [(r["section"], r["status"]) for r in records] == [("A", "error")]
    assert "bad news" in records[0]["log"]
    assert mark.exists()


def test_a_section_that_hangs_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "limit", lambda *_: 2.0)
    child = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"
    records = run_codes(tmp_path, monkeypatch, 200, A=child)
    assert records[0]["status"] == "limit"
    grandchild = int(records[0]["log"])
    assert not is_running(grandchild)


def is_running(pid: int) -> bool:
    """Whether a process still works; one that nobody has waited for yet does not."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_section_with_too_little_time_left_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = run_codes(tmp_path, monkeypatch, 1.0, A="raise SystemExit(3)")
    assert [(r["item"], r["status"]) for r in records] == [("section", "skipped")]
    assert "of the budget" in records[0]["error"]


H200 = 139.8  # GiB


def test_the_estimates_fit_into_the_default_budget_and_no_limit_exceeds_what_is_left() -> None:
    assert [section.letter for section in SECTIONS] == list("ABCDEFGHNIJKLOM")
    groups = turns(chosen(None, None), H200)
    assert sum(max(estimate(section, "cuda") for section in group) for group in groups) <= 520
    assert all(limit(section, "cuda", 7.0) == 7.0 < limit(section, "cuda", 1000.0) for section in SECTIONS)


def test_sections_run_together_where_the_card_holds_them() -> None:
    def grouped(card_gib: float, only: str | None = None) -> list[str]:
        return ["".join(s.letter for s in group) for group in turns(chosen(only, None), card_gib)]

    assert grouped(H200) == ["A", "BCDEFGI", "H", "N", "J"]
    assert grouped(79.6) == ["A", "BCDEFG", "H", "N", "I", "J"]
    assert grouped(H200, "G,E,K,C") == ["CEGK"]
    assert grouped(0.0) == list("ABCDEFGHNIJ")  # nothing is known of the card


def test_a_section_that_waits_for_its_turn_outlives_one_that_hangs() -> None:
    seconds = gpu_check.limits(chosen("E,G,I", None), "cuda", 1000.0)
    assert seconds["E"] < seconds["G"] == seconds["I"]
    assert set(gpu_check.limits(chosen("E,G,I", None), "cuda", 60.0).values()) == {60.0}
    assert gpu_check.limits(chosen("G", None), "cuda", 1000.0)["G"] == limit(chosen("G", None)[0], "cuda", 1000.0)


def test_what_is_timed_is_timed_when_the_others_are_ready_or_at_their_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "turns", lambda sections, _: [sections])
    times = """
import sys, time
from benchmarks.gpu_sections.plan import Turn
time.sleep({pause})
with Turn(Path({folder!r}), {letter!r}).taken():
    r.add({letter!r}, "began", "ok", at=time.monotonic())
    time.sleep(0.5)
    r.add({letter!r}, "ended", "ok", at=time.monotonic())
"""
    begin = f"from benchmarks.gpu_sections.report import *; r = Report(Path({str(tmp_path / 'r.json')!r}), dict())\n"
    folder = str(tmp_path / "group-0")
    codes = {n: begin + times.format(pause=pause, folder=folder, letter=n) for n, pause in (("A", 0), ("B", 1.0))}
    codes["C"] = begin + "import time; time.sleep(2); r.add('C', 'ended', 'ok', at=time.monotonic())"
    at = {(r["section"], r["item"]): r["at"] for r in run_codes(tmp_path, monkeypatch, 200, **codes)}
    first, second = sorted(("A", "B"), key=lambda letter: at[letter, "began"])
    assert at["C", "ended"] <= at[first, "began"]
    assert at[first, "ended"] <= at[second, "began"]


def test_records_of_sections_that_run_together_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "turns", lambda sections, _: [sections])
    monkeypatch.setattr(gpu_check, "estimate", lambda *_: 1.0)
    add = "from benchmarks.gpu_sections.report import *; r = Report(Path({!r}), dict())\nfor n in range(50): r.add({!r}, str(n), 'ok')"
    codes = {letter: add.format(str(tmp_path / "r.json"), letter) for letter in "ABC"}
    records = run_codes(tmp_path, monkeypatch, 200, **codes)
    assert sorted((r["section"], int(r["item"])) for r in records) == [(c, n) for c in "ABC" for n in range(50)]


def test_sections_are_chosen_by_letter() -> None:
    assert [s.letter for s in chosen("c, A", None)] == ["A", "C"]
    assert [s.letter for s in chosen(None, "B,C,D,E,F,G,H,I,N")] == ["A", "J"]
    with pytest.raises(ValueError, match="no section X"):
        chosen("A,X", None)


@pytest.mark.parametrize("arguments", [["--only", "Z"], ["--batch-scale", "-1"], ["--batch-scale", "big"], ["notakey"]])
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        gpu_check.main(arguments)
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_command_writes_its_report_from_any_folder(tmp_path: Path) -> None:
    out = tmp_path / "made" / "check.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu_check.py"),
        "--device",
        "cpu",
        "--only",
        "A",
        "--out",
        str(out),
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads(out.read_text())["records"]
    assert {r["section"] for r in records} == {"A"}
    assert all(r[key] for r in records for key in ("card", "torch", "source"))
    assert "| A |" in done.stdout


HIDDEN = {
    "fvcore",
    "iopath",
    "yacs",
    "submitit",
    "cloudpickle",
    "wandb",
    "hypothesis",
    "pytest",
    "onnx",
    "h5py",
    "lmdb",
}
IMPORTS = f"""
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: None if name.split(".")[0] in {HIDDEN} else found(name, path, target)
from importlib import import_module
from benchmarks.gpu_sections.plan import SECTIONS
for name in [*(s.module for s in SECTIONS), "child", "one_rank", "train"]:
    import_module(f"benchmarks.gpu_sections.{{name}}")
import dinov3.engine.life, dinov3.train.job
"""


def test_the_check_needs_no_package_that_a_bare_machine_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
