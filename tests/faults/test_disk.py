"""F12: a save that fails leaves nothing behind, ends every process or none, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Reference
from tests.faults.runs import Launcher, assert_same, history, names, whole

TROUBLES = {
    "disk_almost_full": r"disk full: need 1.8 MB, have 0.0 MB",
    "files_limited": "File too large",
    "read_only": "Read-only file system",
    "io_error": "Input/output error",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_f12_a_save_that_fails_ends_the_run_and_keeps_the_checkpoint_before(
    runs: Launcher, reference: Reference, tmp_path: Path, trouble: str
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, prepare=f"tests.faults.hooks:{trouble}") == [74]
    error = [line for line in (tmp_path / "run.log").read_text().splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert f"step-00000006: not saved: {TROUBLES[trouble][:10]}" in error[0]
    assert TROUBLES[trouble].split(",")[0].split("need")[0] in error[0]
    assert names(out) == ["step-00000003"], "nothing partial"
    assert whole(out) == [3]
    assert runs.run(out) == [0]
    assert_same(out, reference(1))


def test_f12_what_fails_on_one_process_ends_all_at_once(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = runs.start(out, ranks=2, fault="shards@6:1=fail")
    job.wait_for_step(5)
    assert job.wait() == [74, 74], "long before the watchdog, which waits for ten minutes, would have ended them"
    assert job.text().count("step-00000006: not saved: process 1: disk full: No space left on device") == 1
    assert names(out) == ["step-00000003"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_f12_with_a_warning_training_goes_on_and_saves_next_time(
    runs: Launcher, reference: Reference, tmp_path: Path, ranks: int
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, ranks=ranks, fault=f"shards@6:{ranks - 1}=fail", checkpointing__on_error="warn") == [0] * ranks
    log = (tmp_path / "run.log").read_text()
    assert "disk full: No space left on device; training goes on, the next try is after 3 steps" in log
    assert whole(out) == [9, 12]
    assert history(out) == history(reference(ranks))


def test_f12_the_last_save_must_work_whatever_the_policy(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert runs.run(out, fault="shards@12=fail", checkpointing__on_error="warn") == [74]
    assert whole(out) == [6, 9]
    assert runs.run(out) == [0], "the last steps are trained again and saved"
    assert whole(out) == [9, 12]


def test_every_save_is_measured_and_one_that_is_too_slow_for_the_notice_is_warned_of(
    runs: Launcher, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, checkpointing__preemption_notice=1e-6, train__max_steps=8) == [0]
    rows = [line for line in (out / "metrics.jsonl").read_text().splitlines() if '"checkpoint_seconds"' in line]
    assert len(rows) == 2, "in the first line after each of the saves at 3 and 6"
    log = (out / "run.log").read_text()
    assert log.count("longer than checkpointing.preemption_notice") == 1
    assert log.count(" MB in ") == 3


def test_the_notice_must_also_cover_the_step_under_way(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"checkpointing__preemption_notice": 1.5, "train__max_steps": 4}
    assert runs.run(out, prepare="tests.faults.hooks:slow_step", **options) == [0]
    assert "a step and a checkpoint take " in (out / "run.log").read_text()
