"""``dinov3 submit``: the arguments of training and what the job needs -> a job in the queue, or on this machine."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, load_students
from dinov3.config.output import check_output_folder
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.launch import resources as asked
from dinov3.launch.resources import Resources
from dinov3.system.errors import EXIT_DONE
from dinov3.system.paths import expanded

if TYPE_CHECKING:
    from dinov3.launch.job import TorchrunJob, TrainingJob

LOGS = "slurm"  # folder in the run's: scripts, output of every process, the config as submitted
SLURM_ONLY = ("nodes", "partition", "account", "qos", "constraint", "mem", "python", "setup", "srun_args", "sbatch")
DESCRIPTION = """\
Train on a SLURM cluster: `python -m dinov3.train` on every GPU of the job.
At the time limit or when preempted the job saves, requeues itself and continues.
The config is checked first, and the file is copied: what you edit afterwards does not change a waiting job.
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
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch script and stop; needs no SLURM")
    parser.add_argument(
        "--local", action="store_true", help="run on this machine; --dry-run prints the command of a process"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, as for `dinov3 train`")
    asked.add_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.config_file is None and not args.opts:
        raise ConfigError("command line", "--config-file", "is missing: nothing says what to train")
    cfg = load_config(args.config_file, args.opts)
    resources = asked.read_resources(args)
    _check(cfg, resources, args)
    out = asked.absolute(args.output_dir or Path(cfg.train.output_dir))
    if not args.dry_run:
        check_output_folder(out, "--output-dir")
    return (_local if args.local else _slurm)(args, cfg, resources, out)


def _check(cfg: Config, resources: Resources, args: argparse.Namespace) -> None:
    if cfg.checkpointing.preemption_notice >= 60 * resources.minutes:
        problem = f"{resources.time} is shorter than checkpointing.preemption_notice, {cfg.checkpointing.preemption_notice:g} s"
        raise ConfigError("command line", "--time", problem)
    for name in ("cluster", *SLURM_ONLY) if args.local else ():
        if getattr(args, name) is not None:
            raise ConfigError("command line", f"--{name.replace('_', '-')}", "does nothing with --local, leave it out")


def _check_students(args: argparse.Namespace, cfg: Config, resources: Resources) -> None:
    """ConfigError when the job has another number of processes than its students."""
    processes = (1 if args.local else resources.nodes) * resources.tasks
    if not cfg.multidistillation.enabled:
        return
    wanted = sum(len(student.ranks) for student in load_students(args.config_file, args.opts))
    if wanted != processes:
        problem = f"the ranges are for {wanted} processes, the job has {processes}: change --nodes or --tasks-per-node"
        raise ConfigError("config", "multidistillation.students", problem)


def _slurm(args: argparse.Namespace, cfg: Config, resources: Resources, out: Path) -> int:
    from dinov3.launch import slurm

    _check_students(args, cfg, resources)
    executor = slurm.executor(
        resources,
        out / LOGS,
        notice=math.ceil(cfg.checkpointing.preemption_notice),
        cpus_per_task=resources.cpus_per_task or cfg.train.num_workers + 2,
        name=out.name,
    )
    if args.dry_run:
        print(executor.script(), end="")
        return EXIT_DONE
    slurm.refuse_without_sbatch()
    number = slurm.submit(executor, _job(args, cfg, resources, out, frozen=True))
    print(f"job {number}: {resources.nodes} x {resources.tasks} processes, {resources.time} a turn")
    print(f"log    {out / LOGS}/{number}_0_log.out\ncancel scancel {number}")
    return EXIT_DONE


def _local(args: argparse.Namespace, cfg: Config, resources: Resources, out: Path) -> int:
    from dinov3.launch import local

    if resources.gpus_per_node is None:
        import torch

        resources = replace(resources, gpus_per_node=torch.cuda.device_count())
    _check_students(args, cfg, resources)
    if args.dry_run:
        print(shlex.join(_job(args, cfg, resources, out, frozen=False).command()))
        return EXIT_DONE
    executor = local.executor(
        out / LOGS,
        tasks=1 if resources.launcher == "torchrun" else resources.tasks,
        gpus=resources.gpus,
        minutes=resources.minutes,
        notice=math.ceil(cfg.checkpointing.preemption_notice),
    )
    return local.follow(executor.submit(_job(args, cfg, resources, out, frozen=True)))


def _job(
    args: argparse.Namespace, cfg: Config, resources: Resources, out: Path, *, frozen: bool
) -> TrainingJob | TorchrunJob:
    """What each task calls; ``frozen``: with a copy of the config file as it is now."""
    config, opts = args.config_file and asked.absolute(args.config_file), list(args.opts)
    if config and frozen:
        config = _copied(config, out)
    if cfg.multidistillation.enabled and frozen:
        students = [asdict(student) for student in cfg.multidistillation.students]
        copies = [{**s, "config_path": str(_copied(asked.absolute(Path(s["config_path"])), out))} for s in students]
        opts.append(f"multidistillation.students={json.dumps(copies)}")
    argv = (*(("--config-file", str(config)) if config else ()), "--output-dir", str(out), *opts)
    from dinov3.launch.job import SHUTDOWN_TIMEOUT, TorchrunJob, TrainingJob

    if resources.launcher == "torchrun":
        return TorchrunJob(argv, resources.tasks, max(SHUTDOWN_TIMEOUT, math.ceil(cfg.checkpointing.preemption_notice)))
    return TrainingJob(argv)


def _copied(config: Path, out: Path) -> Path:
    """A copy that nobody edits, beside the job's logs."""
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(config.read_bytes()).hexdigest()[:12]
    return Path(shutil.copyfile(config, out / LOGS / f"{config.stem}-{digest}.yaml"))
