"""A real SLURM of two machines (``cluster.sh``) as an object, and what a test wants to know about a job."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("cluster.sh")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "unshare", "nsenter")
# What a run measures about itself; everything else must be equal.
TIMES = {"images_per_second", "data_wait", "checkpoint_seconds", "checkpoint_blocked_seconds", "checkpoint_bytes"}
STEPS = 32
NODES = ("node1", "node2")
KEYS = (
    *("train.dataset_path=Synthetic:size=64", "train.batch_size_per_gpu=8", f"train.OFFICIAL_EPOCH_LENGTH={STEPS}"),
    *("optim.epochs=1", "optim.warmup_epochs=0", "checkpointing.period=8", "train.log_every=1", "train.num_workers=1"),
    *("evaluation.knn.train=null", "evaluation.knn.test=null"),
)


def why_not() -> str | None:
    """Why there can be no cluster on this machine."""
    if os.name != "posix" or os.geteuid() != 0:
        return "a SLURM of its own needs root: namespaces, mounts"
    missing = [program for program in PROGRAMS if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    return None


class TwoNodes:
    """A cluster that is up, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.env["PATH"] += ":/usr/sbin"
        for name in [name for name in self.env if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
            del self.env[name]

    def cluster(self, *words: str) -> None:
        """One action of ``cluster.sh``; the text of its errors when it fails."""
        command = ["bash", str(SCRIPT), words[0], str(self.folder), *words[1:]]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{shlex_words(words)}: {done.stdout}{done.stderr}")

    def inside(self, *command: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node."""
        words = [str(self.folder / "in"), *command]
        done = subprocess.run(words, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{shlex_words(command)}: {done.stdout}{done.stderr}"
        return done

    def dinov3(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the program on the login node."""
        return self.inside(sys.executable, "-m", "dinov3.cli", *arguments, check=check)

    def submit(self, out: Path, *options: str, keys: tuple[str, ...] = ()) -> str:
        """Send a run of ``STEPS`` steps, one process on each machine; the number of the job."""
        said = self.dinov3("submit", *arguments(out), *options, *KEYS, *keys).stdout
        found = re.match(r"job (\d+): ", said)
        assert found, said
        return found[1]

    def show(self, job: str) -> dict[str, str]:
        """What SLURM says about a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.inside("scontrol", "show", "job", "-o", job).stdout))

    def seconds_run(self, job: str) -> int:
        """How long this turn of a job has been running."""
        hours, minutes, seconds = map(int, self.show(job)["RunTime"].rpartition("-")[2].split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def urgent(self) -> None:
        """A short job for both machines that the partitions low and now must make room for."""
        options = ("-J", "urgent", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null")
        self.inside("sbatch", *options, "--wrap", "sleep 2")

    def processes(self, name: str) -> list[str]:
        """Numbers, as the login node sees them, of training processes of the machine ``name``."""
        script = """
for p in /proc/[0-9]*; do
    tr '\\0' '\\n' 2> /dev/null < $p/environ | grep -qx "SLURMD_NODENAME=$0" || continue
    tr '\\0' ' ' < $p/cmdline | grep -q 'dinov3.launch.job -- ' && basename $p
done"""
        return self.inside("bash", "-c", script, name, check=False).stdout.split()

    def signal(self, name: str) -> None:
        """Send a signal to all training processes of both machines."""
        for pid in [pid for node in NODES for pid in self.processes(node)]:
            self.inside("kill", f"-{name}", pid, check=False)

    def has_for(self, node: str, number: int) -> bool:
        """Whether a stopped training process of a machine has been sent the signal ``number``."""
        said = [self.inside("cat", f"/proc/{pid}/status", check=False).stdout for pid in self.processes(node)]
        masks = [int(mask, 16) for text in said for mask in re.findall(r"^ShdPnd:\t(\w+)$", text, re.MULTILINE)]
        return any(mask >> number - 1 & 1 for mask in masks)

    def wait(self, job: str, out: Path, *states: str, seconds: float = 600) -> dict[str, str]:
        """Wait until the job is in one of ``states``; AssertionError with its log when it ends in another one."""
        end = time.monotonic() + seconds
        while True:
            facts = self.show(job)
            if facts["JobState"] in states:
                return facts
            over = facts["JobState"] in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "COMPLETED")
            if over or time.monotonic() > end:
                raise AssertionError(f"{facts}\n{log(out, job)}")
            time.sleep(0.3)


def arguments(out: Path) -> list[str]:
    """Of ``dinov3 submit``: which run, and one process without a GPU on each of two machines."""
    config = ROOT / "configs" / "train" / "demo_cpu.yaml"
    run = ["--config-file", str(config), "--output-dir", str(out)]
    return [*run, "--gpus-per-node", "0", "--nodes", "2", "--tasks-per-node", "1", "--time", "1:00:00"]


def rows(out: Path) -> list[dict[str, Any]]:
    """Every step of a run, without what was measured about it."""
    try:
        lines = (out / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines if line.endswith("}")]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds:g} s"
        time.sleep(0.1)


def wait_for_step(out: Path, step: int) -> None:
    """Wait until a run has done ``step`` steps."""
    wait_for(lambda: len(rows(out)) >= step, f"step {step} in {out}")


def log(out: Path, job: str) -> str:
    """What the script and all processes of a job wrote, the end of it, without the progress line."""
    files = sorted((out / "slurm").glob(f"{job}_*.[oe][ur][tr]"))
    parts = [f"--- {file.name}\n{file.read_text(errors='replace')[-6000:]}" for file in files]
    return "\n".join(line.rpartition("\r")[2] for line in "\n".join(parts).splitlines())


def shlex_words(words: tuple[str, ...]) -> str:
    """For a message."""
    return " ".join(words)
