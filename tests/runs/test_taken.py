"""A run that was suspended for so long that another machine took over its folder: a process of its own, since it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOLDS = """
import sys
from pathlib import Path
from dinov3.runs import lock
lock.HEARTBEAT = 0.1
with lock.RunLock(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def holder(run: Path) -> subprocess.Popen[str]:
    """Holds the folder until its input is closed."""
    command = [sys.executable, "-c", HOLDS, str(run)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("owner", ["another", socket.gethostname()])
def test_a_holder_that_finds_the_lease_of_another_ends_with_75_and_leaves_it(tmp_path: Path, owner: str) -> None:
    run = tmp_path / "run"
    process = holder(run)
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
    process = holder(run)
    (run / ".lease").unlink(missing_ok=True)
    if there is not None:
        (run / ".lease").write_text(there)
    end = time.monotonic() + 60
    while str(process.pid) not in lease_of(run) and time.monotonic() < end:
        time.sleep(0.02)
    assert str(process.pid) in lease_of(run)
    process.communicate(timeout=60)
    assert process.returncode == 0


def lease_of(run: Path) -> str:
    try:
        return (run / ".lease").read_text()
    except FileNotFoundError:
        return ""
