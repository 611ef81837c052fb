"""The sbatch script of a job: all it needs is in it, so that it can be read, kept, and sent by hand.

Names come from users, folders and YAMLs: whatever they hold is quoted once, here. A name of several lines is refused
before (``launch/resources.py``), for the next line of a script would be run.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.launch.resources import Resources
from dinov3.system.files import write_whole

LOGS = "slurm"  # folder in the run's: scripts, output of every process, the config as submitted
# One process that fails ends the job at once: the others would wait for it until a timeout, on paid GPUs. The
# environment reaches the processes also after `sbatch --export=NONE`. One output file a process.
SRUN = ("--unbuffered", "--kill-on-bad-exit=1", "--export=ALL")
TORCHRUN_WAITS = 300  # least seconds torchrun waits for a save before it kills; its default is 30
TEXT = """\
#!/bin/bash
# A training run. Sent by `dinov3 submit`, or by hand: sbatch THIS_FILE
{options}

logs={logs}
mkdir -p -- "$logs" || exit 74
{files}
# setup
{setup}

# the training command, run by every process
export SUBMITIT_EXECUTOR=slurm
train=({command})
trap : TERM HUP USR1 USR2  # the processes save first: this shell outlives them
# SLURM repeats a signal that a machine did not confirm in time, a minute later, and knows its step by the number alone:
# it would end the same step of the next turn. So the step of each turn has another number than that of the turn before.
for ((turn = 0; turn < ${{SLURM_RESTART_COUNT:-0}} % 3; turn++)); do
    srun --nodes=1 --ntasks=1 --output=/dev/null true 2> /dev/null || :
done
srun {srun} "${{train[@]}}"
"""
FILE = """
# the config as it was when this was written: what is edited later does not change the job
[ -e "$logs"/{name} ] || {{ cat > "$logs"/{name}.$$ <<'{end}' && mv -- "$logs"/{name}.$$ "$logs"/{name}; }} || exit 74
{text}{end}
"""


@dataclass(frozen=True)
class Copy:
    """A config as it is now, under a name of its own beside the logs."""

    path: Path
    text: str

    @classmethod
    def of(cls, config: Path, out: Path) -> Copy:
        """The copy of the YAML file ``config`` for a run in ``out``. Written when ``write`` is called, or by the script."""
        text = config.read_text(encoding="utf-8")  # any line ends become \n: sbatch refuses others
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(out / LOGS / f"{config.stem}-{digest}.yaml", text)

    def write(self) -> None:
        """Make the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, self.text)


@dataclass(frozen=True)
class Command:
    """What every task of a job runs."""

    argv: tuple[str, ...]  # of `python -m dinov3.train`
    processes: int | None = None  # a task is a torchrun with this many; None: it is a training process
    shutdown_timeout: int = TORCHRUN_WAITS

    def words(self) -> list[str]:
        """Arguments for Python."""
        torchrun = ["--torchrun", str(self.processes), "--shutdown-timeout", str(self.shutdown_timeout)]
        return ["-u", "-m", "dinov3.launch.job", *(torchrun if self.processes else ()), "--", *self.argv]


def script(
    resources: Resources,
    out: Path,
    command: Command,
    copies: Sequence[Copy],
    *,
    notice: float,
    cores: int,
    cwd: Path,
    by_hand: bool = False,
) -> str:
    """The text for sbatch. ``notice``: seconds between SIGUSR2 and the time limit; ``cores`` of a training process.

    ``cwd``: where relative paths of the config begin. ``by_hand``: nobody makes the folder of the logs before it is
    sent. ConfigError when SLURM cannot write logs below ``out``.
    """
    logs = out / LOGS
    torchrun = resources.launcher == "torchrun"  # one task a machine, which starts the others
    cores = cores * (resources.tasks if torchrun else 1)
    tasks = 1 if torchrun else resources.tasks
    options: dict[str, object] = {
        "job-name": resources.job_name or out.name,
        "nodes": resources.nodes,
        "ntasks-per-node": tasks,
        "cpus-per-task": cores,
        "gpus-per-node": resources.gpus or None,
        "mem": resources.mem,
        "time": resources.time,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "chdir": cwd,
        "output": own_output(logs, out.name, by_hand=by_hand),
        "open-mode": "append",
        "requeue": "",  # a cluster's default may forbid it
        "signal": f"USR2@{math.ceil(notice)}",  # not USR1, which NCCL uses
        **resources.sbatch,
    }
    # since 22.05 srun does not inherit --cpus-per-task
    srun = [*SRUN, f"--output={pattern(logs)}/%j_%t_log.out", f"--error={pattern(logs)}/%j_%t_log.err"]
    srun += [f"--cpus-per-task={cores}", *resources.srun_args]
    python = resources.python or shlex.quote(sys.executable)
    return TEXT.format(
        options="\n".join(option(name, value) for name, value in options.items() if value is not None),
        logs=shlex.quote(str(logs)),
        files="".join(here_document(copy) for copy in copies),
        setup="\n".join(resources.setup) or ":",
        command=f"{python} {shlex.join(command.words())}",
        srun=shlex.join(srun),
    )


def own_output(logs: Path, name: str, *, by_hand: bool) -> str:
    """Where the output of the script itself goes: beside that of the processes, in a folder that SLURM does not make."""
    if logs.is_dir() or not by_hand:
        return f"{pattern(logs)}/%j_job.out"
    there = next(parent for parent in logs.parents if parent.is_dir())
    return f"{pattern(there)}/{name.replace('%', '%%')}-%j_job.out"


def option(name: str, value: object) -> str:
    """One line for sbatch; an empty value is an option without one."""
    text = str(value)
    return f"#SBATCH --{name}" if text == "" else f"#SBATCH --{name}={shlex.quote(text)}"


def pattern(folder: Path) -> str:
    """A folder in a name that SLURM looks for ``%j`` in. ConfigError for what it cannot be told."""
    if "\\" in str(folder):
        problem = "SLURM fills in no job number where there is a backslash: rename the folder"
        raise ConfigError("command line", "--output-dir", f"{folder}: {problem}")
    return str(folder).replace("%", "%%")


def here_document(copy: Copy) -> str:
    """Shell that makes the file unless it is there."""
    text = copy.text if copy.text.endswith("\n") else copy.text + "\n"
    end = "END_OF_CONFIG"
    while end in text:
        end += "_"
    return FILE.format(name=shlex.quote(copy.path.name), text=text, end=end)
