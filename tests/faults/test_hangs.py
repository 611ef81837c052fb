"""F22: a run that hangs ends with 79 and says where; a worker that is killed ends it at once. Nothing is left running."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Reference
from tests.faults.runs import Launcher, assert_same
from tests.faults.test_signals import gone, members


# with loader workers the limit must leave them time to start: half of it is theirs
@pytest.mark.parametrize(("workers", "limit"), [(0, 3), pytest.param(1, 60, marks=pytest.mark.nightly)])
def test_f22_one_stalled_process_ends_all_with_the_stacks_of_each(
    runs: Launcher, reference: Reference, tmp_path: Path, workers: int, limit: int
) -> None:
    out = tmp_path / "run"
    reference(2)
    # no step takes longer than a whole run has just taken, however busy the machine is
    limits = {"train__watchdog_seconds": max(limit, round(runs.seconds[2])), "train__num_workers": workers}
    job = runs.start(out, ranks=2, fault="step@7:1=stall", **limits)
    job.wait_for_step(6)
    assert job.wait() == [79, 79]
    stacks = [(out / "hang" / f"process-{rank}.txt").read_text() for rank in (0, 1)]
    assert "in _act" in stacks[1], "the stalled one is in the fault"
    assert "faults.py" not in stacks[0], "the other one waits in a collective"
    assert re.search(r"process 1: step 7, samples 60 to 63: .*\.jpg", stacks[1])
    assert re.search(r"process 0: step 7, samples 56 to 59: .*\.jpg", stacks[0])
    assert all(gone(pid) for pid in job.pids), "no orphan"
    assert runs.run(out, ranks=2) == [0, 0]
    assert_same(out, reference(2))


def test_f22_an_image_that_hangs_is_named(runs: Launcher, reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "run"
    reference(1)
    limit = max(3, round(runs.seconds[1]))
    assert runs.run(out, prepare="tests.faults.hooks:hung_image", train__watchdog_seconds=limit) == [79]
    text = (tmp_path / "run.log").read_text()
    assert "in read_image" in text
    assert re.search(r"step 4, samples 32 to 39: .*\.jpg", text)


def test_f22_a_killed_worker_ends_the_run_with_one_line(runs: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = runs.start(out, train__num_workers=1, optim__epochs=100)
    job.wait_for_step(2)
    for pid in set(members(job.pids[0])) - set(job.pids):
        if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes() and children_of(pid) == []:
            os.kill(pid, signal.SIGKILL)
    assert job.wait() == [74]
    assert "SIGKILL mostly means the machine ran out of memory" in job.text()
    assert gone(job.pids[0])


def children_of(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
