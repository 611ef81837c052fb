"""What ends a process that hangs, and what does not: processes of its own, since the watchdog ends the one it is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinov3.system.signal_mask import ASKING

START = """
import ctypes, sys, time
from pathlib import Path
from dinov3.runs import watchdog
watchdog.GRACE, watchdog.LINGER, watchdog.NOTICED = 1.0, 0.1, 1.0
dog = watchdog.Watchdog(Path(sys.argv[1]), seconds=3.0, slow_seconds=3.0)
print("ready", flush=True)
"""
WORKS = """
import threading
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
while not ended.wait(0.2):
    dog.beat("working")
print(dog.stood_still() > 0)
dog.close()
"""
HANGS = "time.sleep(60)"
NEVER_LETS_GO = "ctypes.PyDLL(None).sleep(60)"  # PyDLL: with Python's lock held


def started(body: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START + body, str(folder)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def children_of(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def gone(process: int) -> bool:
    end = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return not Path(f"/proc/{process}").exists()


def test_a_process_that_hangs_ends_with_79_and_its_stacks(tmp_path: Path) -> None:
    process = started(HANGS, tmp_path)
    guards = children_of(process.pid)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 79
    assert "has hung for 3 s" in said
    assert "process 0: starting" in (tmp_path / "process-0.txt").read_text()
    assert len(guards) == 1
    assert gone(guards[0])


def test_a_process_whose_interpreter_is_stuck_is_aborted_with_its_stacks(tmp_path: Path) -> None:
    process = started(NEVER_LETS_GO, tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGABRT
    assert 'File "<string>", line 8' in said


@pytest.mark.parametrize("everything", [True, False], ids=["with its guard", "alone"])
def test_a_process_that_was_suspended_for_longer_than_the_limit_goes_on(tmp_path: Path, everything: bool) -> None:
    process = started(WORKS, tmp_path)
    suspended = [process.pid, *(children_of(process.pid) if everything else [])]
    for pid in suspended:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(6)
    for pid in suspended:
        os.kill(pid, signal.SIGCONT)
    told, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert told == "True\n", "it knows that it stood still"
    assert not list(tmp_path.iterdir())


def test_a_run_whose_guard_was_killed_goes_on(tmp_path: Path) -> None:
    process = started(WORKS, tmp_path)
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


def test_a_run_whose_guard_stands_still_ends(tmp_path: Path) -> None:
    process = started(WORKS, tmp_path)
    guards = children_of(process.pid)
    os.kill(guards[0], signal.SIGSTOP)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert gone(guards[0])


def test_a_guard_is_deaf_to_what_asks_a_job_to_stop_from_its_first_instruction(tmp_path: Path) -> None:
    process = started(WORKS, tmp_path)
    status = Path(f"/proc/{children_of(process.pid)[0]}/status").read_text()
    process.kill()
    process.communicate()
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    assert all(blocked >> (number - 1) & 1 for number in ASKING)


def test_a_guard_ends_with_the_process_that_was_killed(tmp_path: Path) -> None:
    process = started(WORKS, tmp_path)
    guards = children_of(process.pid)
    os.kill(guards[0], signal.SIGTERM)  # as a scheduler does to every process of a job
    process.kill()
    process.communicate()
    assert gone(guards[0])
