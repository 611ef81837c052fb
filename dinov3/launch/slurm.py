"""Sending a script to SLURM, and what can be asked of it before."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.launch import clock
from dinov3.launch.resources import Resources
from dinov3.system.files import as_bytes

TIMEOUT = 60  # seconds for an answer of scontrol


def refuse_without_sbatch() -> None:
    """ConfigError where there is no SLURM."""
    if shutil.which("sbatch") is None:
        raise ConfigError("submit", "", "no sbatch here: use a login node of a SLURM cluster, --dry-run, or --local")


def send(text: str, logs: Path) -> tuple[str, str]:
    """Send a script: the number of the job, and what sbatch said beside it. The script is kept in the folder ``logs``.

    ConfigError when sbatch refuses; OSError when ``logs`` cannot be written. Then nothing is left of it.
    """
    made = [folder for folder in (logs, *logs.parents) if not folder.exists()]
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / f"{uuid.uuid4().hex}_submission.sh"
    number = None
    try:
        file.write_bytes(as_bytes(text))
        done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True, errors="replace")
        found = re.search(r"\bjob (\d+)", done.stdout)
        if done.returncode or found is None:
            raise ConfigError("sbatch", "", one_line(done.stderr or done.stdout) or f"exit code {done.returncode}")
        number = found[1]
    finally:
        if number is None:
            file.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
    file.rename(logs / f"{number}_submission.sh")
    return number, one_line(done.stderr)


def one_line(said: str) -> str:
    """What sbatch said in several lines."""
    lines = (line.removeprefix("sbatch:").strip().removeprefix("error:").strip() for line in said.splitlines())
    return "; ".join(line for line in lines if line)


def refuse_longer_than_partition(resources: Resources) -> None:
    """ConfigError when every partition of the job has a limit below ``--time``: the job would wait for ever.

    A quality of service may lift the limit, so nothing is said with one; nor where SLURM does not answer.
    """
    limits = [] if resources.qos else partition_limits(resources.partition)
    if limits and all(limit is not None and limit < resources.seconds for _, limit in limits):
        words = ", ".join(f"{name} at most {clock.in_words(limit or 0)}" for name, limit in limits)
        problem = f"{resources.time} is {clock.in_words(resources.seconds)}, but the partition allows less ({words})"
        raise ConfigError("command line", "--time", f"{problem}: the job would wait for ever")


def partition_limits(wanted: str | None) -> list[tuple[str, int | None]]:
    """Name and MaxTime in seconds (None: no limit) of the partitions ``a,b``, or of the default one; [] if unknown."""
    if shutil.which("scontrol") is None:
        return []
    try:
        command = ["scontrol", "show", "partition", "-o"]
        said = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    partitions = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in said.splitlines()]
    names = wanted.split(",") if wanted else [p["PartitionName"] for p in partitions if p.get("Default") == "YES"]
    return [
        (p["PartitionName"], clock.seconds(p.get("MaxTime", ""))) for p in partitions if p.get("PartitionName") in names
    ]
