"""A job on this machine, with the signals, requeues and logs it would have under SLURM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from submitit.core.utils import JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE, Controller, LocalExecutor, LocalJob

from dinov3.system.errors import EXIT_PREEMPTED

POLL = 0.1  # seconds
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE = 300  # seconds the tasks have after a second Ctrl-C's SIGTERM, as torchrun's shutdown timeout


class JobController(Controller):
    """The process above the training processes: passes signals on and starts them again when they were requeued.

    submitit's own would die of SIGUSR2, forget exit codes, and give up after six requeues.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.requeue = False
        for number in PASSED_ON:
            signal.signal(number, self._forward_signal)

    def _forward_signal(self, number: int, *_: Any) -> None:
        """Called by the kernel, and with SIGUSR2 shortly before the time limit."""
        self.requeue |= number == signal.SIGUSR2
        super()._forward_signal(number)

    def serve(self) -> int:
        """Run to the end; the worst exit code of the last round, 128 + the number of the signal that killed."""
        while True:
            self.requeue = False
            try:
                self.start_tasks()
                codes = [code if code is not None else -signal.SIGKILL for code in self.wait()]
            finally:
                self.kill_tasks()
            saved = self.requeue and all(code == EXIT_PREEMPTED for code in codes)
            if not saved and LOCAL_REQUEUE_RETURN_CODE not in codes:  # the latter: before training had begun
                return max(code if code >= 0 else 128 - code for code in codes)


class Executor(LocalExecutor):
    """submitit's local executor with our controller; ``update_parameters`` takes the same keys."""

    def _submit_command(self, command: str) -> LocalJob[Any]:
        asked = self.parameters
        tasks, gpus = asked.get("tasks_per_node", 1), asked.get("gpus_per_node", 0)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(i) for i in range(gpus)]
        env = os.environ | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_NTASKS": str(tasks),
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(round(60 * asked["timeout_min"])),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(asked["signal_delay_s"]),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "CUDA_VISIBLE_DEVICES": ",".join(devices[:gpus]),
        }
        # A session of its own: Ctrl-C in the terminal reaches the training processes once, through `follow`.
        controller = [sys.executable, "-m", "dinov3.launch.local", str(self.folder)]
        process = subprocess.Popen(controller, env=env, start_new_session=True)
        return LocalJob(folder=self.folder, job_id=str(process.pid), tasks=list(range(tasks)), process=process)


def executor(folder: Path, *, tasks: int, gpus: int, seconds: int, notice: int) -> Executor:
    """An executor for ``tasks`` processes with ``gpus`` GPUs between them."""
    local = Executor(folder)
    local.update_parameters(tasks_per_node=tasks, gpus_per_node=gpus, timeout_min=seconds / 60, signal_delay_s=notice)
    return local


def follow(job: LocalJob[Any]) -> int:
    """Show the output of process 0 until the job ends; its exit code.

    Ctrl-C saves and stops it, a second one kills it; SIGTERM, SIGUSR1 and SIGUSR2 are passed on to it, and SIGHUP, by
    which a closed terminal says so, as SIGTERM.
    """
    process, log = job._process, JobPaths(job.paths.folder, job.job_id, 0).stdout
    assert process is not None
    seen = 0
    earlier = {number: signal.signal(number, lambda number, _: process.send_signal(number)) for number in PASSED_ON}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it is
        earlier[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: process.send_signal(signal.SIGTERM))
    try:
        while process.poll() is None:
            seen = _show(log, seen)
            time.sleep(POLL)
    except KeyboardInterrupt:
        print("\nCtrl-C: asking the job to save and stop", file=sys.stderr)
        process.terminate()
        try:
            process.wait(GRACE)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    _show(log, seen)
    return process.wait()


def _show(log: Path, seen: int) -> int:
    if not log.exists():
        return seen
    with log.open("rb") as file:
        file.seek(seen)
        new = file.read()
    sys.stdout.write(new.decode(errors="replace"))
    sys.stdout.flush()
    return seen + len(new)


if __name__ == "__main__":
    sys.exit(JobController(Path(sys.argv[1])).serve())
