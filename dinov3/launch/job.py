"""What runs on the machines of a job: ``python -m dinov3.train``, started by srun or by torchrun.

submitit pickles these objects and every process of the job calls one; a requeued job calls the same one again, with the
same arguments, and the run continues. Nothing here loads torch: the environment is set before that.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

# torchrun forwards only these; SIGUSR1 and SIGUSR2 would otherwise end it and leave its processes behind.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
SHUTDOWN_TIMEOUT = 300  # least seconds torchrun waits for a save before it kills; its default is 30


@dataclass(frozen=True)
class TrainingJob:
    """One training process. ``argv``: the arguments of ``python -m dinov3.train``."""

    argv: tuple[str, ...]

    def __call__(self) -> int:
        """Train; any exit code but 0 ends the process with it, so that the scheduler sees it."""
        # CUDA_VISIBLE_DEVICES stays: LOCAL_RANK chooses the GPU, as under torchrun.
        group = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if group.local_world_size > 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
        from dinov3.train.command import main

        code = main(self.argv)
        if code:
            sys.exit(code)
        return code

    def command(self) -> list[str]:
        """The same as a command line."""
        return [sys.executable, "-m", "dinov3.train", *self.argv]

    def checkpoint(self) -> DelayedSubmission:
        """SIGUSR2 before training has begun: the same job again. Later the training loop saves and requeues."""
        return DelayedSubmission(self)


@dataclass(frozen=True)
class TorchrunJob:
    """One machine: becomes a torchrun with ``processes`` training processes."""

    argv: tuple[str, ...]
    processes: int
    shutdown_timeout: int = SHUTDOWN_TIMEOUT

    def __call__(self) -> int:
        group = TorchDistributedEnvironment()
        command = self.command(
            *("--nnodes", str(group.world_size), "--node-rank", str(group.rank)),
            *("--master-addr", group.master_addr, "--master-port", str(group.master_port)),
        )
        os.execv(command[0], command)  # the signals go straight to torchrun

    def command(self, *machines: str) -> list[str]:
        """The command line; ``machines``: torchrun's options when there are several."""
        return [
            *(sys.executable, "-m", "torch.distributed.run", *machines, "--nproc-per-node", str(self.processes)),
            *("--signals-to-handle", SIGNALS, "--shutdown-timeout", str(self.shutdown_timeout)),
            *("-m", "dinov3.train", *self.argv),
        ]

    def checkpoint(self) -> DelayedSubmission:
        """SIGUSR2 before torchrun has taken over: the same job again."""
        return DelayedSubmission(self)
