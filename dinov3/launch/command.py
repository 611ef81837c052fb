"""``dinov3 submit``: the arguments of training and what the job needs -> a job in the queue, or on this machine."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_stages, load_students
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.config.stages import Stage
from dinov3.config.students import Student
from dinov3.engine.command import say_which_folder
from dinov3.launch import clock
from dinov3.launch import resources as asked
from dinov3.launch.resources import Resources
from dinov3.launch.script import LOGS, TORCHRUN_WAITS, Command, Copy, script
from dinov3.runs.output import check_output_folder
from dinov3.system.errors import EXIT_DONE
from dinov3.system.paths import expanded

if TYPE_CHECKING:
    from dinov3.launch.job import TorchrunJob, TrainingJob

SLURM_ONLY = ("nodes", "partition", "account", "qos", "constraint", "mem", "python", "setup", "srun_args", "sbatch")
EARLY = 60  # seconds by which SLURM may send the signal before its time (`man sbatch`, --signal)
DESCRIPTION = """\
Train on a SLURM cluster: `python -m dinov3.train` on every GPU of the job.
Before the time limit, and when preempted, the job saves, goes back into the queue and continues in its next turn.
`scancel` ends it, saved; `scancel --signal=USR2` gives it another turn.
Config, data and time limit are checked first. The job keeps the config as it is: what you edit later does not change it.
"""
EPILOG = """\
exit codes: 0 submitted, 74 the run folder cannot be written, 78 config, options, or refused by sbatch;
with --local those of `dinov3 train`
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 submit``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--config-file", type=config_file, help="YAML, as for `dinov3 train`")
    parser.add_argument(
        "--output-dir", type=expanded, help="run folder, on a disk all machines share; logs go to its slurm/"
    )
    parser.add_argument("--cluster", type=expanded, metavar="YAML", help="the options below as a file: one a cluster")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the script, with the training command, and stop; needs no SLURM. `sbatch FILE` sends it by hand",
    )
    parser.add_argument(
        "--no-check", action="store_true", help="do not look at the data and the partition first: they are elsewhere"
    )
    parser.add_argument(
        "--local", action="store_true", help="run on this machine; --dry-run prints the command of a process"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, as for `dinov3 train`")
    asked.add_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.config_file is None and not args.opts:
        raise ConfigError("command line", "--config-file", "is missing: nothing says what to train")
    stages = load_stages(args.config_file, args.opts)
    cfg = stages[0].cfg
    resources = asked.read_resources(args)
    if args.local and resources.gpus_per_node is None:
        import torch

        resources = replace(resources, gpus_per_node=torch.cuda.device_count())
    _check(cfg, resources, args)
    out = asked.absolute(args.output_dir or Path(cfg.train.output_dir))
    say_which_folder(out, args)
    if not args.dry_run:
        check_output_folder(out, "--output-dir")
    students = load_students(args.config_file, args.opts) if cfg.multidistillation.enabled else []
    processes = (1 if args.local else resources.nodes) * resources.tasks
    _check_students(students, processes)
    if not args.no_check and (args.dry_run or not args.local):  # a local run looks itself, at once
        _check_data(students or stages, processes, _said(resources, processes, local=args.local))
    return (_local if args.local else _slurm)(args, cfg, resources, out)


def _check(cfg: Config, resources: Resources, args: argparse.Namespace) -> None:
    notice = cfg.checkpointing.preemption_notice
    # SLURM counts in minutes, and begins a new one with every second
    limit = resources.seconds if args.local else math.ceil(resources.seconds / 60) * 60
    early = 0 if args.local else EARLY
    if limit <= notice + early:
        problem = f"{resources.time} is {clock.in_words(resources.seconds)}, and the signal to save comes {notice:g} s "
        problem += "(checkpointing.preemption_notice) before the end" + f", in SLURM up to {early} s earlier" * (
            early > 0
        )
        raise ConfigError("command line", "--time", f"{problem}: give more than {clock.in_words(int(notice) + early)}")
    for name in ("cluster", *SLURM_ONLY) if args.local else ():
        if getattr(args, name) is not None:
            raise ConfigError("command line", f"--{name.replace('_', '-')}", "does nothing with --local, leave it out")


def _check_students(students: Sequence[Student], processes: int) -> None:
    """ConfigError when the job has another number of processes than its students."""
    wanted = sum(len(student.ranks) for student in students)
    if students and wanted != processes:
        problem = f"the ranges are for {wanted} processes, the job has {processes}: change --nodes or --tasks-per-node"
        raise ConfigError("config", "multidistillation.students", problem)


def _said(resources: Resources, processes: int, *, local: bool) -> str:
    """What the processes of the job are, and the options that say how many."""
    nodes = "" if local or resources.nodes == 1 else f"--nodes {resources.nodes}, "
    if resources.tasks_per_node is not None:
        return f"{processes} processes ({nodes}--tasks-per-node {resources.tasks})"
    gpus = f", default {resources.gpus}" if resources.gpus_per_node is None else f" {resources.gpus}"
    return f"{processes} {'GPUs' if resources.gpus else 'processes'} ({nodes}--gpus-per-node{gpus})"


def _check_data(runs: Sequence[Stage] | Sequence[Student], processes: int, said: str) -> None:
    """ConfigError when training would refuse its images; ``said``: what its processes are."""
    from dinov3.data.errors import DataError
    from dinov3.train.dataset import checked_source
    from dinov3.train.promise import doubts

    for run in runs:
        own = len(run.ranks) if isinstance(run, Student) else processes
        try:
            for line in doubts(run.cfg, checked_source(run.cfg, own, said if own == processes else "")):
                print(line, file=sys.stderr)
        except (DataError, OSError) as error:
            raise ConfigError("data", "", f"{error} (--no-check submits without looking)") from error


def _slurm(args: argparse.Namespace, cfg: Config, resources: Resources, out: Path) -> int:
    from dinov3.launch import slurm

    command, copies = _command(args, cfg, resources, out)
    text = script(
        resources,
        out,
        command,
        copies,
        notice=cfg.checkpointing.preemption_notice,
        cores=resources.cpus_per_task or cfg.train.num_workers + 2,
        cwd=asked.absolute(Path(), "working directory"),
        by_hand=args.dry_run,
    )
    if not args.no_check:
        slurm.refuse_longer_than_partition(resources)
    turn = f"{resources.nodes} x {resources.tasks} processes, {clock.in_words(resources.seconds)} a turn"
    if args.dry_run:
        print(text, end="", flush=True)
        print(f"nothing was sent; the job would be {turn}", file=sys.stderr)
        return EXIT_DONE
    slurm.refuse_without_sbatch()
    number, said = slurm.send(text, out / LOGS)
    if said:
        print(f"sbatch: {said}", file=sys.stderr)
    print(f"job {number}: {turn}")
    print(f"log    {out / LOGS}/{number}_0_log.out, errors in {number}_0_log.err\ncancel scancel {number}")
    return EXIT_DONE


def _local(args: argparse.Namespace, cfg: Config, resources: Resources, out: Path) -> int:
    from dinov3.launch import local

    if args.dry_run:
        print(shlex.join(_job(_command(args, cfg, resources, out, frozen=False)[0]).command()))
        return EXIT_DONE
    if found := re.search("%[jtaA]", str(out)):
        problem = f"{out}: {found[0]} stands for a number in the names of logs: rename the folder"
        raise ConfigError("command line", "--output-dir", problem)
    command, copies = _command(args, cfg, resources, out)
    for copy in copies:
        copy.write()
    executor = local.executor(
        out / LOGS,
        tasks=1 if resources.launcher == "torchrun" else resources.tasks,
        gpus=resources.gpus,
        seconds=resources.seconds,
        notice=math.ceil(cfg.checkpointing.preemption_notice),
    )
    return local.follow(executor.submit(_job(command)))


def _command(
    args: argparse.Namespace, cfg: Config, resources: Resources, out: Path, *, frozen: bool = True
) -> tuple[Command, list[Copy]]:
    """What each task runs; ``frozen``: with copies of the config files as they are now."""
    copies: list[Copy] = []

    def kept(config: Path, option: str) -> str:
        path = asked.absolute(config, option)
        if frozen:
            copies.append(Copy.of(path, out))
            path = copies[-1].path
        return str(path)

    config = ("--config-file", kept(args.config_file, "--config-file")) if args.config_file else ()
    opts = list(args.opts)
    for text in opts:
        if any(unicodedata.category(c) == "Cs" for c in text):  # so Python keeps bytes that are no characters
            raise ConfigError("command line", text, "is not UTF-8")
    if cfg.multidistillation.enabled and frozen:
        students = [asdict(student) for student in cfg.multidistillation.students]
        own = [{**s, "config_path": kept(Path(s["config_path"]), "multidistillation.students")} for s in students]
        opts.append(f"multidistillation.students={json.dumps(own)}")
    argv = (*config, "--output-dir", str(out), *opts)
    if resources.launcher == "torchrun":
        patience = max(TORCHRUN_WAITS, math.ceil(cfg.checkpointing.preemption_notice))
        return Command(argv, resources.tasks, patience), copies
    return Command(argv), copies


def _job(command: Command) -> TrainingJob | TorchrunJob:
    """The same for submitit."""
    from dinov3.launch.job import TorchrunJob, TrainingJob

    if command.processes:
        return TorchrunJob(command.argv, command.processes, command.shutdown_timeout)
    return TrainingJob(command.argv)
