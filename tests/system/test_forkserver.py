from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinov3.system import forkserver

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """\
import os
from dinov3.system.forkserver import context
if __name__ == "__main__":
    process = context("forkserver").Process(target=os._exit, args=(7,))
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("length", [20, 80, 240])
def test_a_process_is_started_whatever_the_length_of_the_temporary_folders_name(tmp_path: Path, length: int) -> None:
    """At 80 the folder's own name fits into a socket's address, and what multiprocessing adds does not."""
    folder = Path("/tmp", f"{os.getpid()}".rjust(length, "x")) if length < 100 else tmp_path / ("y" * length)
    folder.mkdir()
    script = tmp_path / "start.py"
    script.write_text(SCRIPT)
    try:
        environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert (done.stdout, done.returncode) == ("7\n", 0), done.stderr
        assert [*folder.iterdir()] == []
    finally:
        folder.rmdir()


def test_a_short_name_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, object] = {}
    monkeypatch.setattr(forkserver.multiprocessing.current_process(), "_config", config)
    monkeypatch.setattr(forkserver.tempfile, "gettempdir", lambda: "/" + "t" * 74)
    forkserver.shorten_addresses()
    assert config == {}, "107 bytes are an address"


KILLED = """
import multiprocessing, os, signal, sys
from dinov3.system.forkserver import start_tracker

start_tracker()
lock = multiprocessing.get_context("spawn").Lock()
print(lock._semlock.name, sys.warnoptions, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_held_is_removed_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    name, options = done.stdout.split()
    assert done.stderr == ""
    assert options == "[]"
    assert not Path("/dev/shm", f"sem.{name.strip('/')}").exists()
