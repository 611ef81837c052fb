"""Give a job that ran out of time another turn in the queue of its scheduler."""

from __future__ import annotations

import logging
import os
import subprocess

log = logging.getLogger(__name__)
TIMEOUT = 60  # seconds for scontrol: its server may be busy, and the job has little time left


def requeue() -> str:
    """Put this SLURM job back in its queue; what was done, as half a sentence. Only one process of a job calls it.

    Elsewhere, and under submitit's local executor (which may itself run inside a SLURM job), the same command
    continues the run and whoever started it starts it again.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SUBMITIT_EXECUTOR") == "local":
        return "the same command continues"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=TIMEOUT)
        problem = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.warning("scontrol requeue %s: %s: submit the run again, it continues", job, problem)
        return "the same command continues"
    return f"job {job} is back in the queue"
