"""What runs on the machines of a job: ``python -m dinov3.train``, started by srun or by torchrun.

Under SLURM every task runs ``python -m dinov3.launch.job -- ARGUMENTS``. On this machine submitit pickles an object and
every process of the job calls it. A requeued job does the same again, with the same arguments, and the run continues.
Nothing here loads torch: the environment is set before that.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from dinov3.launch.script import TORCHRUN_WAITS

# torchrun forwards only these; SIGUSR1 and SIGUSR2 would otherwise end it and leave its processes behind.
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"


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
    shutdown_timeout: int = TORCHRUN_WAITS

    def __call__(self) -> int:
        """Become torchrun; does not return."""
        group = TorchDistributedEnvironment()
        command = self.command(
            *("--nnodes", str(group.world_size), "--node-rank", str(group.rank)),
            *("--master-addr", group.master_addr, "--master-port", str(group.master_port)),
        )
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # until torchrun has its own handlers: they would end it
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


def main(argv: Sequence[str] | None = None) -> int:
    """A task of a SLURM job: ``[--torchrun PROCESSES] -- ARGUMENTS`` of ``python -m dinov3.train``."""
    parser = argparse.ArgumentParser(prog="python -m dinov3.launch.job")
    parser.add_argument("--torchrun", type=int, help="training processes of this machine, which torchrun starts")
    parser.add_argument("--shutdown-timeout", type=int, default=TORCHRUN_WAITS)
    given = list(sys.argv[1:] if argv is None else argv)
    own, training = given[: given.index("--")], tuple(given[given.index("--") + 1 :])
    args = parser.parse_args(own)
    if args.torchrun:
        return TorchrunJob(training, args.torchrun, args.shutdown_timeout)()
    return TrainingJob(training)()


if __name__ == "__main__":
    sys.exit(main())
