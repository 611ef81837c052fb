"""``dinov3 init``: one commented YAML for these images, this machine and this goal."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from dinov3.advice.choices import FINETUNE, choices_for, words_of, wrapped, yaml_of
from dinov3.advice.facts import GB, TEST_NAMES, Case, Images, Machine, look_at, this_machine
from dinov3.config.about.tasks import PRETRAIN, schema_of
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.runs.output import check_output_file
from dinov3.system.cards import CARDS, card, card_of
from dinov3.system.cores import cores
from dinov3.system.files import write_whole
from dinov3.system.paths import expanded

CLASSES = "two classes or more, with ten images each on average: one subfolder a class, or another source with labels"
PARTS = ("train", *TEST_NAMES)
GOALS = {
    "pretrain": "from nothing",
    "continue": "go on from weights without forgetting (--weights)",
    "distill": "a small model with the features of a larger one (--weights)",
    "high-res": "the last stage: weights that are to work on large images (--weights)",
    FINETUNE: "a classifier on weights, for images with classes (--weights); the YAML is for `dinov3 finetune`",
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
    parser.add_argument(
        "--card", choices=[known.name for known in CARDS], type=str.lower, help="kind of GPU, where the run has another"
    )
    parser.add_argument(
        "--shape-only",
        action="store_true",
        help="what is to be told apart differs in shape, not in colour: crops' colours are changed so much that shape is left",
    )
    parser.add_argument(
        "--plan", action="store_true", help="also count memory and time, as `dinov3 plan` does: for up to a minute"
    )
    parser.add_argument("--out", type=expanded, help="file to write (default: FOLDER's name .yaml, here)")


def execute(args: argparse.Namespace) -> int:
    """Write it and say what to do next. Raises ConfigError, DataError and WeightsError; nothing is left then."""
    check_goal(args.goal, args.weights)
    if args.plan and args.goal == FINETUNE:
        raise ConfigError("command line", "--plan", "counts pretraining only: leave it out with --goal finetune")
    out = args.out or Path(f"{name_of(args.data)}.yaml")
    if out.exists():
        raise ConfigError("command line", "--out", f"{out} is there already: give another name, or remove it")
    check_output_file(out, "--out")
    machine = machine_for(args.gpus, args.card)
    images = look_at(absolute(args.data), workers=cores())
    case = Case(images, machine, args.goal, absolute(args.weights), args.shape_only)
    check_shape_only(case)
    tunes = args.goal == FINETUNE
    if tunes:
        check_classifier(case, args.data)
    if tunes or args.goal == "distill":  # the other goals read the weights for their choices
        check_weights(case)
    choices = choices_for(case)
    load_config(
        None, words_of(choices), schema_of("classify" if tunes else PRETRAIN)
    )  # what we would refuse is not written
    word = "finetune" if tunes else "train"
    command = f"dinov3 {word} --config-file {shlex.quote(str(out))} --output-dir {shlex.quote(f'runs/{out.stem}')}"
    head = [command, "", *wrapped(f"Written by `{said_again(args)}`. {facts_of(case)}")]
    write_whole(out, yaml_of(choices, head))
    print(facts_of(case))
    for choice in choices:
        print(f"  {choice.subject:<30} {choice.rule.when}")
    print(f"written    {out}\nnext       {command}")
    if tunes:
        return 0
    words = plan_words(out, machine)
    if not args.plan:
        print(f"cost       dinov3 plan {shlex.join(words)} (not counted now: it takes up to a minute; --plan does it)")
        return 0
    return planned(words)


def check_classifier(case: Case, data: str) -> None:
    """ConfigError unless the images have classes."""
    if not case.data.classes:
        raise ConfigError("command line", "--goal", f"finetune needs what {data} does not have: {CLASSES}")
    if parts := sorted({*PARTS} & {name.lower() for name in case.data.class_names}):
        raise ConfigError(
            "command line",
            "FOLDER",
            f"{data}: {parts[0]} is one of its classes: put the others into a folder train beside it",
        )


def check_shape_only(case: Case) -> None:
    """ConfigError where the choice changes nothing."""
    if not case.shape_only:
        return
    if case.goal != "pretrain":
        raise ConfigError("command line", "--shape-only", f"is for --goal pretrain: leave it out with {case.goal}")
    if case.data.channels != 3:
        text = f"changes colours of three channels, these images have {case.data.channels}: leave it out"
        raise ConfigError("command line", "--shape-only", text)


def check_weights(case: Case) -> None:
    """WeightsError for weights that are no backbone, ConfigError for one that does not take these images."""
    from dinov3.weights.own import load_backbone

    backbone = load_backbone(expanded(case.weights))
    if backbone.in_chans != case.data.channels:
        text = f"{case.weights} takes {backbone.in_chans} channels, the images have {case.data.channels}"
        raise ConfigError("command line", "--weights", f"{text}: give weights that take them")


def machine_for(gpus: int | None, card_name: str | None) -> Machine:
    """This machine, with other GPUs where they are named. ConfigError for GPUs nobody knows the memory of."""
    here, known = this_machine(), None if card_name is None else card(card_name)
    if gpus is not None and gpus < 0:
        raise ConfigError("command line", "--gpus", f"{gpus}: 0 for a CPU, else at least 1")
    if known is not None:
        if gpus == 0:
            raise ConfigError("command line", "--card", "contradicts --gpus 0: leave one of them out")
        return replace(here, gpus=gpus or max(here.gpus, 1), gpu=known.name, gpu_memory=known.memory / GB)
    if gpus and not here.gpus:
        raise ConfigError(
            "command line", "--card", "is missing: there is no GPU here, so name the kind the run will have"
        )
    return here if gpus is None else replace(here, gpus=gpus)


def plan_words(out: Path, machine: Machine) -> list[str]:
    """What `dinov3 plan` is to be asked about the file that was written."""
    known = card(machine.gpu) or card_of(machine.gpu) if machine.gpus else None
    words = ["--config-file", str(out), "--gpus", str(max(1, machine.gpus))]
    return words if known is None else [*words, "--card", known.name]


def planned(words: Sequence[str]) -> int:
    """``dinov3 plan``. It is named, not imported: it counts a training, and training asks this room for advice."""
    plan = import_module("dinov3.plan.command")
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    code: int = plan.execute(parser.parse_args(words))
    return code


def check_goal(goal: str, weights: str) -> None:
    """ConfigError for a goal that needs weights and has none, and for weights that no goal uses."""
    if goal != "pretrain" and not weights:
        raise ConfigError("command line", "--weights", f"is missing: --goal {goal} begins with a trained backbone")
    if goal == "pretrain" and weights:
        said = "is not used by --goal pretrain: say --goal continue, distill or finetune"
        raise ConfigError("command line", "--weights", said)


def absolute(data: str) -> str:
    """A path that means the same from any folder; another data set as it is."""
    path = expanded(data)
    return str(path.absolute()) if data and path.exists() else data


def name_of(data: str) -> str:
    """What a data set is called in a file name."""
    last = Path(data.partition(":")[0] if not expanded(data).exists() else data).name or "images"
    return Path(last).stem if expanded(data).is_file() else last


def said_again(args: argparse.Namespace) -> str:
    """The command that was called."""
    goal = "" if args.goal == "pretrain" else f" --goal {args.goal} --weights {shlex.quote(args.weights)}"
    gpus = "" if args.gpus is None else f" --gpus {args.gpus}"
    card = "" if args.card is None else f" --card {args.card}"
    return f"dinov3 init {shlex.quote(args.data)}{goal}{gpus}{card}{' --shape-only' if args.shape_only else ''}"


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
