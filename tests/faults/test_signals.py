"""F4: a run that is told to stop saves at one step on all processes and ends with 85."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Reference
from tests.faults.runs import PATIENCE, Launcher, assert_same, whole


def test_f4_sigterm_to_one_process_stops_all_at_the_same_step(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, ranks=2, fault="step@4:1=term") == [85, 85]
    assert whole(out) == [3, 5], "the step that was under way is finished and saved"
    assert (tmp_path / "run.log").read_text().count("saved at step 5; the same command continues") >= 1
    assert runs.run(out, ranks=2) == [0, 0]
    assert_same(out, reference(2))


@pytest.mark.parametrize(
    "point", ["rename", *(pytest.param(point, marks=pytest.mark.nightly) for point in ("shards", "committed"))]
)
def test_f4_a_signal_during_a_save_waits_for_it(
    runs: Launcher, reference: Reference, tmp_path: Path, point: str
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, fault=f"{point}@6=term") == [85]
    assert whole(out) == [6, 7], "one more step, then a save of its own"
    assert runs.run(out) == [0]
    assert_same(out, reference(1))


def test_f4_the_same_signal_passed_on_twice_is_one_request(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, fault="step@4=term,step@5=term,rename@5=term") == [85]
    assert whole(out) == [3, 5]
    assert runs.run(out) == [0]
    assert_same(out, reference(1))


@pytest.mark.parametrize(
    ("points", "left"),
    [
        ("shards@6=term,rename@6=term", 3),
        pytest.param("shards@6=term,committed@6=term", 6, marks=pytest.mark.nightly),
    ],
)
def test_f4_a_second_signal_ends_the_process_at_once_and_corrupts_nothing(
    runs: Launcher, reference: Reference, tmp_path: Path, points: str, left: int
) -> None:
    out = tmp_path / "run"
    assert runs.run(out, fault=points, prepare="tests.faults.hooks:every_signal_counts") == [-signal.SIGTERM]
    assert whole(out)[-1] == left
    assert runs.run(out) == [0]
    assert_same(out, reference(1))


def test_f4_the_loader_workers_do_not_hear_it(runs: Launcher, reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = runs.start(out, train__num_workers=1)
    job.wait_for_step(2)
    os.killpg(job.pids[0], signal.SIGTERM)  # as SLURM does: every process of the step
    assert job.wait() == [85]
    assert gone(job.pids[0]), "no process is left"
    assert runs.run(out) == [0]
    assert_same(out, reference(1))


def gone(session: int, seconds: float = PATIENCE) -> bool:
    """Whether every process of a session ends soon: a worker looks every two seconds whether it is still wanted."""
    end = time.monotonic() + seconds
    while members(session) and time.monotonic() < end:
        time.sleep(0.05)
    return not members(session)


def members(session: int) -> list[int]:
    """Live processes of a session, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append(int(entry.name))
    return found
