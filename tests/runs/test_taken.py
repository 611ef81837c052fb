"""A run that was suspended for so long that another machine took over its folder: a process of its own, since it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOLDS = """
import sys, time
from pathlib import Path
from dinov3.runs import lock
lock.HEARTBEAT = 0.1
with lock.RunLock(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(run: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDS, str(run), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("owner", ["another", socket.gethostname()])
def test_a_holder_that_finds_the_lease_of_another_ends_with_75_and_leaves_it(tmp_path: Path, owner: str) -> None:
    run = tmp_path / "run"
    process = holder(run, 60)
    theirs = f"{owner}\n1 7\n"
    while process.poll() is None:  # one of its beats may just be under way
        (run / ".lease").write_text(theirs)
        time.sleep(0.05)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said == f"error: {run}: a process on {owner} took over while this one stood still; this one ends\n"
    assert (run / ".lease").read_text() == theirs


@pytest.mark.parametrize("there", [None, "", "half a line"])
def test_a_lease_that_is_gone_or_damaged_is_written_again(tmp_path: Path, there: str | None) -> None:
    run = tmp_path / "run"
    process = holder(run, 1)
    (run / ".lease").unlink()
    if there is not None:
        (run / ".lease").write_text(there)
    end = time.monotonic() + 10
    while time.monotonic() < end and str(process.pid) not in (
        (run / ".lease").read_text() if (run / ".lease").exists() else ""
    ):
        time.sleep(0.02)
    assert process.wait(60) == 0
    assert time.monotonic() < end
