"""GPUs that a scheduler or the user gave to this process, whether torch can use them or not."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dinov3.config.errors import ConfigError

LISTS = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "ROCR_VISIBLE_DEVICES")  # names of devices
COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS")  # 4, or a100:4
NONE = {"", "-1", "NoDevFiles", "(null)", "void", "none"}  # as CUDA, SLURM and container runtimes write "no device"


def allocated_gpus(env: Mapping[str, str]) -> str | None:
    """The variable that says that there are GPUs for this process, as ``NAME=value``; None when there are none.

    ``CUDA_VISIBLE_DEVICES`` decides where it is set: empty, it takes GPUs away from a process of a job that has some.
    """
    for name in LISTS:
        if name in env:
            if env[name].split(",")[0].strip() not in NONE:
                return f"{name}={env[name]}"
            if name == "CUDA_VISIBLE_DEVICES":
                return None
    for name in COUNTS:
        count = env.get(name, "").rpartition(":")[2].partition("(")[0]
        if count.isascii() and count.isdigit() and int(count) > 0:
            return f"{name}={env[name]}"
    return None


def refuse_unused_gpus() -> None:
    """ConfigError when this process has GPUs. Called where torch sees none and would use the CPU."""
    found = allocated_gpus(os.environ)
    if found is not None:
        raise ConfigError(
            "device",
            "auto",
            f"torch sees no GPU although {found}: look at `nvidia-smi` and at the CUDA version of torch "
            "(`dinov3 doctor`), or ask for the CPU: train.device=cpu, or CUDA_VISIBLE_DEVICES= before the command",
        )
