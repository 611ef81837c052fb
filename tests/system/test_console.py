"""The reader of the output goes away, the terminal closes, a stream was closed, a character cannot be shown: work goes on."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dinov3.system.rows import read_rows
from tests.train.tiny import command

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600.0  # seconds; on an idle machine all of it takes a few
PREPARED = "from dinov3.system import console; console.prepare(); import sys, os\n"


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def python(code: str, **variables: str) -> list[str]:
    return [sys.executable, "-c", PREPARED + code]


# ------------------------------------------------------------------ the piece itself


def test_what_nobody_reads_is_dropped_and_the_process_goes_on(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    code = """
from tqdm import tqdm
for i in tqdm(range(1000), mininterval=0):
    print(i, flush=True)
tqdm.write("x", file=sys.stderr)
os.write(1, b"by number")
os.write(2, b"by number")
open(sys.argv[1], "w").write("done")
"""
    done = subprocess.run([*python(code), str(tmp_path / "x")], stdout=write, stderr=write, env=environment())
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "x").read_text() == "done"


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_nowhere_and_no_file_takes_their_numbers(closed: str, tmp_path: Path) -> None:
    code = "file = open(sys.argv[1], 'w'); assert file.fileno() > 2; print('a'); print('b', file=sys.stderr); file.write('done')"
    shell = f'exec {closed}; exec "$@"'
    done = subprocess.run(["bash", "-c", shell, "bash", *python(code), str(tmp_path / "x")], env=environment())
    assert done.returncode == 0
    assert (tmp_path / "x").read_text() == "done"


def test_processes_that_are_started_have_open_streams_too(tmp_path: Path) -> None:
    """A loader process without a standard error would end at its first word."""
    code = "import subprocess; child = 'import sys; sys.stderr.write(str(1)); sys.stdout.write(str(1)); open(sys.argv[1], chr(119)).write(chr(120))'\n"
    code += "assert subprocess.run([sys.executable, '-c', child, sys.argv[1]], close_fds=True).returncode == 0"
    words = ["bash", "-c", 'exec 0<&- 1>&- 2>&-; exec "$@"', "bash", *python(code), str(tmp_path / "x")]
    assert subprocess.run(words, env=environment()).returncode == 0
    assert (tmp_path / "x").read_text() == "x"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_character_the_console_lacks_is_written_as_an_escape(encoding: str) -> None:
    code = "print('Gr\u00f6\u00dfe \u2588 \u2192'); print('\u2588', file=sys.stderr)"
    done = subprocess.run(python(code), env=environment(PYTHONIOENCODING=encoding), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\u2192" in done.stdout
    assert done.stderr == b"\\u2588\n"


def test_a_full_disk_behind_the_console_ends_nothing() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(python("print('x' * 100_000)"), stdout=full, stderr=full, env=environment())
    assert done.returncode == 0


def test_an_answer_that_found_no_room_is_an_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "dinov3.cli", "config", "explain", "optim.lr"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment())
    assert done.returncode == 74
    assert done.stderr == b"error: [Errno 28] No space left on device: 'standard output'\n"


def test_a_stream_that_something_else_put_there_stays() -> None:
    code = "import io; from dinov3.system import console; sys.stdout = mine = io.StringIO(); console.prepare(); assert sys.stdout is mine"
    assert subprocess.run(python(code), env=environment()).returncode == 0


def test_a_second_call_changes_nothing() -> None:
    code = "from dinov3.system import console; before = sys.stdout, sys.stderr; console.prepare(); assert (sys.stdout, sys.stderr) == before"
    assert subprocess.run(python(code), env=environment()).returncode == 0


# ------------------------------------------------------------------ a run


def training(out: Path, steps: int) -> list[str]:
    words = command(out, train__max_steps=steps, optim__epochs=steps, evaluation__pictures="false")
    return [sys.executable, "-m", "dinov3.train", *words]


def steps_of(out: Path) -> list[int]:
    return [row["iteration"] for row in read_rows(out / "metrics.jsonl")]


def test_a_run_whose_reader_leaves_after_a_line_is_trained_to_its_end(tmp_path: Path) -> None:
    """``2>&1 | head -1``."""
    run = subprocess.Popen(
        training(tmp_path / "run", 8), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
    )
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(PATIENCE) == 0
    assert steps_of(tmp_path / "run") == list(range(8))
    assert (tmp_path / "run" / "ckpt" / "step-00000008").is_dir()


def test_a_run_whose_terminal_is_closed_is_trained_to_its_end(tmp_path: Path) -> None:
    """SIGHUP is ignored, as after ``nohup`` or ``disown``; the terminal has no width, as a serial line."""
    main, terminal = pty.openpty()
    # ignored signals stay ignored in the program that is started
    words = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash", *training(tmp_path / "run", 40)]
    run = subprocess.Popen(
        words, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, env=environment()
    )
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the run was quicker, and closed its end
        while b"images/s" not in seen:
            seen += os.read(main, 4096)
    assert b"images/s" in seen
    os.close(main)
    assert run.wait(PATIENCE) == 0
    assert steps_of(tmp_path / "run") == list(range(40))


def test_ctrl_c_is_answered_while_the_step_goes_on(tmp_path: Path) -> None:
    run = subprocess.Popen(
        training(tmp_path / "run", 400), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("step "):
            break
    run.send_signal(signal.SIGINT)
    said = run.stderr.read()
    assert run.wait(PATIENCE) == 85
    assert "stopping after this step, saving; again to end now" in said
    assert "\r" not in said
