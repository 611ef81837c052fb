"""``dinov3 init``: one commented YAML for these images, this machine and this goal."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from dinov3.advice.choices import choices_for, words_of, wrapped, yaml_of
from dinov3.advice.facts import Case, Images, Machine, look_at, this_machine
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.output import check_output_file
from dinov3.system.cores import cores
from dinov3.system.files import write_whole
from dinov3.system.paths import expanded

GOALS = {
    "pretrain": "from nothing",
    "continue": "go on from weights without forgetting (--weights)",
    "distill": "a small model with the features of a larger one (--weights)",
    "high-res": "the last stage: weights that are to work on large images (--weights)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 init``."""
    parser.description = (
        "Looks at the images (256 of them are read) and at this machine, and writes a YAML in which every choice has its "
        "reason. `dinov3 train FOLDER` makes the same choices and starts."
    )
    parser.add_argument("data", metavar="FOLDER", help="images: a folder, or any text for train.dataset_path")
    goals = "; ".join(f"{name}: {text}" for name, text in GOALS.items())
    parser.add_argument("--goal", choices=GOALS, default="pretrain", help=f"{goals} (default pretrain)")
    parser.add_argument("--weights", default="", help="run, export or released weights to begin with or to learn from")
    parser.add_argument(
        "--gpus", type=int, help="processes the run will have, one a GPU (default: 1 where there is one)"
    )
    parser.add_argument("--out", type=expanded, help="file to write (default: FOLDER's name .yaml, here)")


def execute(args: argparse.Namespace) -> int:
    """Write it and say what to do next. Raises ConfigError, DataError and WeightsError; nothing is left then."""
    check_goal(args.goal, args.weights)
    out = args.out or Path(f"{name_of(args.data)}.yaml")
    if out.exists():
        raise ConfigError("command line", "--out", f"{out} is there already: give another name, or remove it")
    check_output_file(out, "--out")
    machine = this_machine() if args.gpus is None else replace(this_machine(), gpus=args.gpus)
    case = Case(look_at(absolute(args.data), workers=cores()), machine, args.goal, args.weights)
    choices = choices_for(case)
    load_config(None, words_of(choices))  # what we would refuse is not written
    command = f"dinov3 train --config-file {shlex.quote(str(out))} --output-dir runs/{out.stem}"
    head = [command, "", *wrapped(f"Written by `{said_again(args)}`. {facts_of(case)}")]
    write_whole(out, yaml_of(choices, head))
    print(facts_of(case))
    for choice in choices:
        print(f"  {choice.subject:<30} {choice.rule.when}")
    print(f"written    {out}\nnext       {command}")
    return 0


def check_goal(goal: str, weights: str) -> None:
    """ConfigError for a goal that needs weights and has none, and for weights that no goal uses."""
    if goal != "pretrain" and not weights:
        raise ConfigError("command line", "--weights", f"is missing: --goal {goal} begins with a trained backbone")
    if goal == "pretrain" and weights:
        raise ConfigError("command line", "--weights", "is not used by --goal pretrain: say --goal continue or distill")


def absolute(data: str) -> str:
    """A path that means the same from any folder; another data set as it is."""
    path = expanded(data)
    return str(path.absolute()) if path.exists() else data


def name_of(data: str) -> str:
    """What a data set is called in a file name."""
    last = Path(data.partition(":")[0] if not expanded(data).exists() else data).name or "images"
    return Path(last).stem if expanded(data).is_file() else last


def said_again(args: argparse.Namespace) -> str:
    """The command that was called."""
    goal = "" if args.goal == "pretrain" else f" --goal {args.goal} --weights {shlex.quote(args.weights)}"
    return f"dinov3 init {shlex.quote(args.data)}{goal}"


def facts_of(case: Case) -> str:
    """The images and the machine in two sentences."""
    return f"Images: {of_images(case.data)}. Machine: {of_machine(case.machine)}."


def of_images(data: Images) -> str:
    """What the rules saw of them."""
    parts = [f"{data.images:,} to train on", f"short side {data.median_side} px", f"{data.channels} channels"]
    parts.append(f"{data.classes} classes" if data.classes else "no classes")
    if data.values is not None:
        parts.append(f"values from {data.values[0]:g} to {data.values[1]:g}")
    if data.unreadable:
        parts.append(f"{data.unreadable:.1%} unreadable")
    return ", ".join(parts)


def of_machine(machine: Machine) -> str:
    """Cores, and GPUs where there are any."""
    gpus = f"{machine.gpus} x {machine.gpu}, {machine.gpu_memory:.0f} GB" if machine.gpus else "no GPU"
    return f"{machine.cores} cores, {gpus}"
