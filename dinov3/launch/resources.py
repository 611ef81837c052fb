"""What a job asks the scheduler for: one table for the options of ``dinov3 submit`` and for the YAML of a cluster."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

import argparse
import difflib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_origin

from dinov3.config.convert import convert_block
from dinov3.config.errors import ConfigError, KeyProblem
from dinov3.config.spec import hints, key, spec_of, without_null
from dinov3.config.yaml_file import read_yaml
from dinov3.launch import clock
from dinov3.system.paths import expanded

SBATCH_OPTION = re.compile(r"[a-z][a-z0-9-]*")
# Options of sbatch that have one here, by their name in sbatch.
OWN = {
    name: name for name in ("nodes", "gpus-per-node", "cpus-per-task", "mem", "time", "partition", "account", "qos")
} | {"constraint": "constraint", "job-name": "job-name", "ntasks-per-node": "tasks-per-node"}
# Options of sbatch that a job cannot work with, and why.
CANNOT = {
    "array": "all elements would train in one folder: submit one job for each run",
    "ntasks": "the processes of a job are --nodes times --tasks-per-node",
    "wrap": "what the job runs is the training command",
    **dict.fromkeys(("output", "error", "open-mode"), "the logs go to the folder slurm of the run"),
    "chdir": "the paths of a config are those of the folder a job is sent from",
    "signal": "SIGUSR2 comes checkpointing.preemption_notice seconds before the end",
    **dict.fromkeys(("requeue", "no-requeue"), "a job that was stopped goes on with its next turn"),
    **dict.fromkeys(("test-only", "help", "usage", "version"), "it would send nothing"),
}
WHOLE = ("gpus",)  # options of sbatch that others begin with; every other beginning is an abbreviation to sbatch
# Unicode categories that no name has: control characters, halves of characters, separators of lines.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}


@dataclass
class Resources:
    nodes: int = key(1, "machines", ge=1)
    gpus_per_node: int | None = key(None, "GPUs on each machine; default: 8, with --local those there are", ge=0)
    tasks_per_node: int | None = key(None, "processes on each machine; default: one a GPU, without GPUs one", ge=1)
    cpus_per_task: int | None = key(None, "cores of each process; default: train.num_workers + 2", ge=1)
    mem: str | None = key(None, "memory of each machine, e.g. 480G; 0: all of it")
    time: str = key(
        "24:00:00", "time limit as in SLURM: minutes, hours:minutes:seconds, days-hours, …; the job requeues itself"
    )
    partition: str | None = key(None, "partition, or several with commas")
    account: str | None = key(None, "account that pays")
    qos: str | None = key(None, "quality of service")
    constraint: str | None = key(None, "features the machines must have")
    job_name: str | None = key(None, "name in the queue; default: that of the run folder")
    launcher: Literal["srun", "torchrun"] = key("srun", "who starts the processes of a machine")
    python: str | None = key(
        None, "command for Python in the job, e.g. `apptainer exec --nv /images/train.sif python`; default: this Python"
    )
    setup: list[str] = key([], "shell line to run before the start, e.g. `module load cuda/12.8`; may be repeated")
    srun_args: list[str] = key(
        [], "argument for srun, e.g. --srun-args=--container-image=/images/train.sqsh; may be repeated"
    )
    sbatch: dict[str, str] = key(
        {}, "any other option of sbatch, e.g. exclude=node07, or exclusive= for one without a value; may be repeated"
    )

    @property
    def tasks(self) -> int:
        """Training processes on each machine."""
        return self.tasks_per_node or max(1, self.gpus)

    @property
    def gpus(self) -> int:
        """GPUs on each machine."""
        return 8 if self.gpus_per_node is None else self.gpus_per_node

    @property
    def seconds(self) -> int:
        """The time limit. KeyProblem when ``time`` is none."""
        total = clock.seconds(self.time)
        if not total:
            raise KeyProblem("time", f"{self.time!r} is not a time limit: write {clock.FORMATS}")
        return total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for every key of Resources."""
    group = parser.add_argument_group("resources", "Also keys of the YAML given by --cluster; the command line wins.")
    for field in fields(Resources):
        spec, hint = spec_of(field), without_null(hints(Resources)[field.name])
        many = get_origin(hint) in (list, dict)
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            action="append" if many else "store",
            metavar={"setup": "LINE", "srun_args": "ARG", "sbatch": "option=value", "launcher": "srun|torchrun"}.get(
                field.name, "N" if hint is int else "TEXT"
            ),
            help=spec.meaning + ("" if many or field.default is None else f" (default: {field.default})"),
        )


def read_resources(args: argparse.Namespace) -> Resources:
    """Defaults <- ``--cluster`` YAML <- options. ConfigError names the file or the option."""
    given = {f.name: value for f in fields(Resources) if (value := getattr(args, f.name)) is not None}
    source = str(args.cluster) if args.cluster else "command line"
    try:
        tree: dict[str, Any] = dict(read_yaml(args.cluster)) if args.cluster else {}
        _check(convert(tree))
        source = "command line"
        if "sbatch" in given:
            given["sbatch"] = dict(tree.get("sbatch") or {}, **_pairs(given["sbatch"]))
        return _check(convert(tree | given))
    except KeyProblem as problem:
        name = problem.key if source != "command line" else f"--{problem.key.replace('_', '-')}"
        raise ConfigError(source, name, problem.problem) from None


def convert(tree: dict[str, Any]) -> Resources:
    """A tree of text as Resources; an unknown key names the nearest."""
    known = [f.name for f in fields(Resources)]
    for name in tree:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise KeyProblem(name, f"unknown key (did you mean {close[0]}?)" if close else f"not one of {known}")
    return convert_block(tree, Resources, "")


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise KeyProblem("sbatch", f"{text!r} is not option=value (option= for one without a value)")
        pairs[name.removeprefix("--")] = value
    return pairs


def _check(resources: Resources) -> Resources:
    for name, text in _texts(resources):
        if problem := unprintable(text):
            raise KeyProblem(name, problem)
    _ = resources.seconds
    for name in resources.sbatch:
        if not SBATCH_OPTION.fullmatch(name):
            raise KeyProblem("sbatch", f"{name!r} is not the long name of an option of sbatch")
        meant = [full for full in (*OWN, *CANNOT) if full.startswith(name)]
        if meant and name not in (*OWN, *CANNOT, *WHOLE):
            raise KeyProblem("sbatch", f"{name} is short for {meant[0]} to sbatch: write out the option you mean")
        if name in OWN:
            raise KeyProblem("sbatch", f"{name} has an option of its own: --{OWN[name]}")
        if name in CANNOT:
            raise KeyProblem("sbatch", f"{name} cannot be given: {CANNOT[name]}")
    return resources


def _texts(resources: Resources) -> Iterator[tuple[str, str]]:
    """Every text in ``resources`` with the name of its field."""
    for field in fields(Resources):
        value = getattr(resources, field.name)
        values = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        for text in values if isinstance(values, list) else [values]:
            if isinstance(text, str):
                yield field.name, text


def unprintable(text: str) -> str | None:
    """What is wrong with a text that is to be one line of a script; None when nothing is."""
    bad = next((c for c in text if unicodedata.category(c) in UNPRINTABLE), None)
    if bad is not None and "\udc80" <= bad <= "\udcff":  # a byte of a file's name that Python takes for no text
        return f"{text!r} is no text under this LANG: say it with LANG=C.UTF-8, or use a name in UTF-8"
    return None if bad is None else f"{text!r} holds {bad!r}: it is to be one line of printable text"


def absolute(path: Path, option: str = "--output-dir") -> Path:
    """Where a path of the command line lies, whatever folder the job starts in. ConfigError for one of several lines."""
    found = expanded(path).absolute()
    if problem := unprintable(str(found)):
        raise ConfigError("command line", option, problem)
    return found
