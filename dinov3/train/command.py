"""The training command: DINOv3's arguments, one line for every foreseeable mistake, a documented exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dinov3.config.arguments import refuse_a_model_nobody_chose, unrecognised
from dinov3.config.dump import to_yaml
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_stages, load_students
from dinov3.config.output import check_output_folder
from dinov3.config.stages import Stage
from dinov3.config.students import Student
from dinov3.distributed.report import report
from dinov3.system import console

EPILOG = """\
The same command run again continues the run; a finished run says so and ends with 0.
exit codes: 0 done, 70 too many non-finite steps, 71 below a limit of evaluation.*, saved, 74 checkpoint or file error, 75 folder in use, 78 config or data, 79 hang, 85 stopped and saved
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m dinov3.train`` and ``dinov3 train``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("--config-file", type=Path, help="YAML; what it leaves out has its default")
    parser.add_argument("--output-dir", type=Path, help="run folder (default: train.output_dir)")
    parser.add_argument(
        "--resume-from", type=Path, metavar="CKPT", help="go back to this checkpoint; later ones are moved aside"
    )
    parser.add_argument("--no-resume", action="store_true", help="start again; an earlier run is moved aside")
    parser.add_argument("--multi-distillation", action="store_true", help="the same as multidistillation.enabled=true")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, e.g. optim.epochs=10")


def execute(args: argparse.Namespace) -> int:
    """Run the command; the exit code of the run. Raises what ``report`` turns into a line and a code."""
    stages, students = configured(args)
    if args.print_config:
        print("---\n".join(f"{heading(run)}{to_yaml(run.cfg)}" for run in students or stages), end="")
        return 0
    out = args.output_dir or Path(stages[0].cfg.train.output_dir)
    if not out.is_dir():  # a finished run may lie in a folder that is only to be read
        check_output_folder(out, "--output-dir" if args.output_dir else "train.output_dir")
    # Imported late: a wrong config is reported before torch is loaded.
    from dinov3.distributed.context import teardown
    from dinov3.engine.stages.run import run_stages
    from dinov3.train.job import make_job
    from dinov3.train.students import run_students

    try:
        if students:
            return run_students(students, out, resume=not args.no_resume, resume_from=args.resume_from)
        return run_stages(stages, out, make_job(), resume=not args.no_resume, resume_from=args.resume_from)
    except Exception as error:  # noqa: BLE001 - raised again unless it was foreseen
        return report(error)  # before teardown: who says it depends on the group
    finally:
        teardown()


def configured(args: argparse.Namespace) -> tuple[list[Stage], list[Student]]:
    """What the arguments ask for: one run or several stages; of several students at once, those as well."""
    if args.config_file is None and not args.opts and not args.print_config:
        raise ConfigError("command line", "--config-file", "is missing: nothing says what to train")
    if args.no_resume and args.resume_from:
        raise ConfigError("command line", "--resume-from", "contradicts --no-resume: give one of them")
    opts = [*args.opts, *["multidistillation.enabled=true"] * args.multi_distillation]
    stages = load_stages(args.config_file, opts)
    if not args.print_config:
        refuse_a_model_nobody_chose(args.config_file, opts)
    students = load_students(args.config_file, opts) if stages[0].cfg.multidistillation.enabled else []
    if args.print_config and args.output_dir:
        for cfg in (*(stage.cfg for stage in stages), *(student.cfg for student in students)):
            cfg.train.output_dir = str(args.output_dir)
    return stages, students


def heading(run: Stage | Student) -> str:
    """What stands above the config of one of several runs."""
    if isinstance(run, Student):
        return f"# student {run.name}: processes {run.ranks[0]} to {run.ranks[-1]}\n"
    return f"# stage {run.number}: {run.name}\n" if run.name else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m dinov3.train``."""
    console.prepare()
    parser = argparse.ArgumentParser(prog="python -m dinov3.train", description="Train a backbone without labels.")
    add_arguments(parser)
    args, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        parser.error(unrecognised(rest, sys.argv[1:] if argv is None else argv))
    try:
        return execute(args)
    except KeyboardInterrupt:
        print("interrupted before training began; nothing was lost", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - raised again unless it was foreseen
        return report(error)
