"""A job for SLURM: the sbatch script, and sending it."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from dinov3.config.errors import ConfigError
from dinov3.launch.job import TorchrunJob, TrainingJob
from dinov3.launch.resources import Resources

# One process that fails ends the job at once: the others would wait for it until a timeout, on paid GPUs.
SRUN_ARGS = ("--kill-on-bad-exit=1",)


class Executor(submitit.SlurmExecutor):
    """submitit's, which can also write the script of a job where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self) -> str:
        """The text that ``submit`` hands to sbatch."""
        text: str = self._make_submission_file_text(self._submitit_command_str, "")
        return text


def executor(resources: Resources, folder: Path, *, notice: int, cpus_per_task: int, name: str) -> Executor:
    """An executor whose script and logs go to ``folder``; ``notice``: seconds between SIGUSR2 and the time limit."""
    slurm = Executor(folder, python=resources.python)
    torchrun = resources.launcher == "torchrun"  # one task a machine, which starts the others
    tasks = 1 if torchrun else resources.tasks
    cores = cpus_per_task * (resources.tasks if torchrun else 1)
    # In sbatch's own words, whatever submitit calls them. --requeue: a cluster's default may forbid it. No USR1: NCCL's.
    options: dict[str, Any] = {"requeue": True, "signal": f"USR2@{notice}"}
    for option in ("partition", "account", "qos", "constraint", "mem"):
        value = getattr(resources, option)
        if value is not None:
            options[option] = value
    options |= resources.sbatch
    slurm.update_parameters(
        job_name=resources.job_name or name,
        nodes=resources.nodes,
        ntasks_per_node=tasks,
        cpus_per_task=cores,
        gpus_per_node=resources.gpus or None,
        time=resources.minutes,
        setup=resources.setup or None,
        srun_args=[
            *SRUN_ARGS,
            f"--cpus-per-task={cores}",
            *resources.srun_args,
        ],  # since 22.05 srun does not inherit it
        additional_parameters=options,
        wckey=None,  # submitit's default is refused where these are checked
    )
    return slurm


def refuse_without_sbatch() -> None:
    """ConfigError where there is no SLURM."""
    if shutil.which("sbatch") is None:
        raise ConfigError("submit", "", "no sbatch here: use a login node of a SLURM cluster, --dry-run, or --local")


def submit(slurm: Executor, job: TrainingJob | TorchrunJob) -> str:
    """Send the job; its number. ConfigError, and nothing of it left behind, when sbatch refuses."""
    before = set(slurm.folder.iterdir()) if slurm.folder.exists() else set()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats sbatch's words there
            return str(slurm.submit(job).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        for path in set(slurm.folder.iterdir()) - before:
            path.unlink()
        reason = [line for line in str(error).splitlines() if line.startswith("sbatch:")] or str(error).splitlines()[
            -1:
        ]
        raise ConfigError("sbatch", "", " ".join(line.removeprefix("sbatch:").strip() for line in reason)) from None
