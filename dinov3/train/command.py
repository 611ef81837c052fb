"""``dinov3 train`` and ``python -m dinov3.train``: pretraining, of one student or of several that share a teacher."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dinov3.config.arguments import refuse_a_model_nobody_chose
from dinov3.config.load import load_students
from dinov3.config.pretraining import PRETRAIN
from dinov3.config.stages import named
from dinov3.config.students import Student
from dinov3.engine import command
from dinov3.engine.command import Kind, Prepared, output_folder, print_configs, to_the_end
from dinov3.runs.requeue import answer_before_training
from dinov3.train.folder import refuse_missing_images, take_folder

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob
    from dinov3.runs.signals import StopRequest


def _make(said: str = "") -> MakeJob:
    from dinov3.train.job import PretrainingJob

    return functools.partial(PretrainingJob, said=said)


KIND = Kind(PRETRAIN, _make)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m dinov3.train`` and ``dinov3 train``."""
    about = "a folder of images (without --config-file a recipe is chosen for them and this machine); "
    command.add_arguments(parser, words="FOLDER key=value", about=about)
    parser.set_defaults(instead="`dinov3 train FOLDER` chooses a recipe for the images in FOLDER")
    parser.add_argument("--multi-distillation", action="store_true", help="the same as multidistillation.enabled=true")


def execute(args: argparse.Namespace) -> int:
    """Run the command; the exit code of the run. Raises what ``report`` turns into a line and a code."""
    answer_before_training()
    if args.print_config:
        return _print(args)
    return to_the_end(prepared(args).train)


def _take_words(args: argparse.Namespace) -> str:
    """Sort the words of the command line into config and overrides; a line of the start-up block."""
    args.config_file, opts, said = take_folder(args.config_file, args.opts)
    args.opts = [*opts, *["multidistillation.enabled=true"] * args.multi_distillation]
    return said


def _print(args: argparse.Namespace) -> int:
    _take_words(args)
    stages = KIND.stages(args)
    if not stages[0].cfg.multidistillation.enabled:
        return print_configs([(command.heading(stage), stage.cfg) for stage in stages], args)
    students = load_students(args.config_file, args.opts)
    return print_configs([(heading(student), student.cfg) for student in students], args)


def prepared(args: argparse.Namespace) -> Prepared:
    """The run that the arguments describe. Raises ConfigError, DataError and OSError; nothing is written yet."""
    said = _take_words(args)
    stages = KIND.stages(args)
    refuse_a_model_nobody_chose(args.config_file, args.opts)
    for stage in stages:
        with named(stage.name):
            refuse_missing_images(stage.cfg)
    if not stages[0].cfg.multidistillation.enabled:
        return KIND._replace(make=functools.partial(_make, said)).prepared(stages, args)
    students = load_students(args.config_file, args.opts)
    out = output_folder(args, students[0].cfg)

    def train(stop: StopRequest | None = None) -> int:
        from dinov3.train.students import run_students

        return run_students(students, out, resume=not args.no_resume, resume_from=args.resume_from, stop=stop)

    return Prepared(out, train)


def heading(student: Student) -> str:
    """What stands above the config of one of several students."""
    return f"# student {student.name}: processes {student.ranks[0]} to {student.ranks[-1]}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m dinov3.train``."""
    return command.main(execute, add_arguments, "python -m dinov3.train", "Train a backbone without labels.", argv)
