"""Signals through every launcher: torchrun (F5), submitit's local executor (F6), a SLURM of stubs (F4, SIGUSR2)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dinov3.launch import local, slurm
from dinov3.launch.job import TorchrunJob, TrainingJob
from dinov3.launch.resources import Resources
from dinov3.launch.script import Command, script
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from tests.faults.runs import PATIENCE
from tests.train.tiny import command

TIMES = ("images_per_second", "data_wait")
# 24 steps, no checkpoint but those that a signal asks for.
LONG = {"optim__epochs": 6, "checkpointing__period": 1000, "evaluation__pictures": "false"}
# Its tasks are forked after one import of torch: they are the program from its `main` on.
SRUN = """#!{python}
import os, sys
sys.path.insert(0, os.getcwd())
from tests.faults import server
words = sys.argv[sys.argv.index(sys.executable) + 1 :]
assert words[:3] == ["-u", "-m", "dinov3.launch.job"], words
folder, n = os.environ["LOGS"], {tasks}
server.preload(server.PRETRAINING)
tasks = []
for i in range(n):
    env = dict(SLURM_PROCID=str(i), SLURM_LOCALID=str(i), SLURM_NTASKS=str(n), SLURM_NODEID="0")
    env.update(SLURM_JOB_NUM_NODES="1", SLURM_JOB_NODELIST="localhost")
    tasks.append(server.start("dinov3.launch.job:main", words[3:], env, os.path.join(folder, "output")))
with open(os.path.join(folder, "pids"), "w") as file:
    file.write(" ".join(map(str, tasks)))
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in tasks))
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)


def steps(out: Path) -> list[int]:
    return [row["iteration"] for row in read_rows(out / "metrics.jsonl")]


def last_step(out: Path) -> int:
    return int(step_folders(out)[-1].name.removeprefix("step-"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.nightly)])
def test_torchrun_told_to_stop_saves_and_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    job = TorchrunJob(tuple(command(tmp_path, train__batch_size_per_gpu=4, train__num_workers=1, **LONG)), 2)
    port = str(20000 + os.getpid() % 20000)
    torchrun = subprocess.Popen(job.command("--master-port", port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: len(steps(tmp_path)) >= 2 or torchrun.poll() is not None, "the second step")
    workers = descendants(torchrun.pid)
    torchrun.send_signal(number)
    _, error = torchrun.communicate(timeout=PATIENCE)
    assert len(workers) >= 4, error.decode()[-2000:]  # two training processes with a loader process each
    wait_for(lambda: not any(map(alive, workers)), "the end of all processes", seconds=10)
    assert 2 <= last_step(tmp_path) < 24
    assert steps(tmp_path) == list(range(last_step(tmp_path)))


def run_local(out: Path, *, interrupt: bool) -> str:
    """A run of 24 steps under the local executor; its output."""
    executor = local.executor(out / "slurm", tasks=1, gpus=0, seconds=600, notice=60)
    job = executor.submit(TrainingJob(tuple(command(out, **LONG))))
    if interrupt:
        wait_for(lambda: len(steps(out)) >= 2, "the second step")
        job._interrupt()
    assert local.follow(job) == 0
    return (out / "slurm" / f"{job.job_id}_0_log.out").read_text()


@pytest.mark.nightly
def test_a_preempted_local_job_requeues_itself_and_continues_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = run_local(tmp_path / "preempted", interrupt=True)
    assert log.count("SIGUSR2: saved at step ") == 1
    assert "resumed    at step" in log
    assert "resumed" in capsys.readouterr().out, "the output is shown while it comes"
    run_local(tmp_path / "reference", interrupt=False)
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(tmp_path / name / "metrics.jsonl")]
        for name in ("preempted", "reference")
    ]
    assert rows[0] == rows[1]
    assert steps(tmp_path / "preempted") == list(range(24))
    ends = [step_folders(tmp_path / name)[-1] / "state" for name in ("preempted", "reference")]
    assert digest(read_tensors(ends[0], prefix="")) == digest(read_tensors(ends[1], prefix=""))


def stub(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_usr2_saves_on_all_ranks_and_requeues_once_and_the_next_turn_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path / "sbatch", f'#!/bin/sh\ncp "$1" {tmp_path}/script.sh\necho Submitted batch job 4242\n')
    stub(tmp_path / "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
    stub(tmp_path / "srun", SRUN.format(python=sys.executable, tasks=2))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOGS", str(tmp_path / "run" / "slurm"))
    out = tmp_path / "run"
    logs = out / "slurm"
    resources = Resources(gpus_per_node=0, tasks_per_node=2)
    argv = tuple(command(out, train__batch_size_per_gpu=4, **LONG))
    slurm.send(script(resources, out, Command(argv), [], notice=60, cores=1, cwd=Path.cwd()), logs)
    turn = ["bash", str(tmp_path / "script.sh")]

    job = subprocess.Popen(turn, env=os.environ | {"SLURM_JOB_ID": "4242"})
    wait_for(lambda: len(steps(out)) >= 2 or job.poll() is not None, "the second step")
    for pid in (logs / "pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR2)
    assert job.wait(120) == 85, (logs / "output").read_text()[-2000:]
    saved = last_step(out)
    assert steps(out) == list(range(saved))
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4242\n"
    assert f"SIGUSR2: saved at step {saved}; job 4242 is back in the queue" in (logs / "output").read_text()

    again = subprocess.run(turn, env=os.environ | {"SLURM_JOB_ID": "4242"}, timeout=PATIENCE)
    assert again.returncode == 0, (logs / "output").read_text()[-2000:]
    assert steps(out) == list(range(24))
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4242\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.nightly)])
def test_a_local_submission_passes_its_signals_on_to_the_job(number: signal.Signals, tmp_path: Path) -> None:
    """A batch script, a container or a closed terminal stops the command that was started, which does not train."""
    out = tmp_path / "run"
    submit = [sys.executable, "-m", "dinov3.cli", "submit", "--local", "--tasks-per-node", "1", "--gpus-per-node", "0"]
    process = subprocess.Popen([*submit, *command(out, **LONG)], stdout=subprocess.DEVNULL)
    wait_for(lambda: steps(out)[2:], "step 2")
    children = descendants(process.pid)
    process.send_signal(signal.SIGUSR2)
    wait_for(lambda: step_folders(out), "a save")
    saved = last_step(out)
    wait_for(lambda: max(steps(out)) > saved, "another turn")
    process.send_signal(number)
    assert process.wait(120) == 85
    assert last_step(out) > saved
    assert not [pid for pid in children if alive(pid)]
