"""The training command: DINOv3's arguments, one line for every foreseeable mistake, a documented exit code."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dinov3.config.dump import to_yaml
from dinov3.config.errors import EXIT_CONFIG, EXIT_HANG, EXIT_IO, EXIT_LOCKED, EXIT_NON_FINITE, ConfigError
from dinov3.config.load import load_stages, load_students
from dinov3.config.output import check_output_folder
from dinov3.config.stages import Stage
from dinov3.config.students import Student
from dinov3.runs.requeue import answer_before_training

EPILOG = """\
The same command run again continues the run; a finished run says so and ends with 0.
exit codes: 0 done, 70 too many non-finite steps, 71 below a limit of evaluation.*, saved, 74 checkpoint or file error, 75 folder in use, 78 config or data, 79 hang, 85 stopped and saved
"""

LAST_TO_START = 10  # seconds between the first and the last process of a machine to read the config, at most


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
    """Run the command; foreseeable errors become one line on stderr and an exit code."""
    answer_before_training()
    try:
        stages, students = configured(args)
    except ConfigError as error:
        return fail(error, EXIT_CONFIG)
    if args.print_config:
        print("---\n".join(f"{heading(run)}{to_yaml(run.cfg)}" for run in students or stages), end="")
        return 0
    out = args.output_dir or Path(stages[0].cfg.train.output_dir)
    try:
        if not out.is_dir():  # a finished run may lie in a folder that is only to be read
            check_output_folder(out, "--output-dir" if args.output_dir else "train.output_dir")
    except OSError as error:
        return fail(error, EXIT_IO)
    # Imported late: a wrong config is reported before torch is loaded.
    from dinov3.data.errors import DataError, LoaderError, LoaderHang, TooManyBadSamples
    from dinov3.distributed.context import is_loss_of_a_peer, teardown
    from dinov3.runs.checkpoint import CheckpointError
    from dinov3.weights.own import WeightsError
    from dinov3.runs.lock import RunLocked
    from dinov3.train.loop import NonFiniteAbort
    from dinov3.train.stages import run_stages
    from dinov3.train.students import run_students

    try:
        if students:
            return run_students(students, out, resume=not args.no_resume, resume_from=args.resume_from)
        return run_stages(stages, out, resume=not args.no_resume, resume_from=args.resume_from)
    except (ConfigError, DataError, WeightsError) as error:
        return fail(error, EXIT_CONFIG)
    except NonFiniteAbort as error:
        return fail(error, EXIT_NON_FINITE)
    except RunLocked as error:
        return fail(error, EXIT_LOCKED)
    except LoaderHang as error:
        return fail(error, EXIT_HANG)
    except RuntimeError as error:
        if not is_loss_of_a_peer(error):
            raise
        return fail(RuntimeError("another process of this run has ended: see its message"), EXIT_HANG)
    except (CheckpointError, TooManyBadSamples, LoaderError, OSError) as error:
        return fail(error, EXIT_IO)
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
    several = stages[0].cfg.multidistillation.enabled
    return stages, load_students(args.config_file, opts) if several else []


def heading(run: Stage | Student) -> str:
    """What stands above the config of one of several runs."""
    if isinstance(run, Student):
        return f"# student {run.name}: processes {run.ranks[0]} to {run.ranks[-1]}\n"
    return f"# stage {run.number}: {run.name}\n" if run.name else ""


def fail(error: Exception, code: int) -> int:
    """Print one line, return ``code``.

    What every process raises is said by the main one; what happens before they know of one another, such as a wrong
    config, by the first of each machine.
    """
    if not said_elsewhere(error):
        print(f"error: {error}", file=sys.stderr)
    elif "torch" not in sys.modules:
        time.sleep(LAST_TO_START)  # torchrun ends all as soon as one has ended; this one must not be the first
    return code


def said_elsewhere(error: Exception) -> bool:
    """Whether another process prints this error."""
    if "torch" not in sys.modules:  # too early for a group
        return os.environ.get("LOCAL_RANK", "0") != "0"
    from dinov3.distributed.context import is_main
    from dinov3.distributed.agreement import is_said_by_another_run, is_shared

    return is_said_by_another_run(error) or (is_shared(error) and not is_main())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m dinov3.train``."""
    parser = argparse.ArgumentParser(prog="python -m dinov3.train", description="Train a backbone without labels.")
    add_arguments(parser)
    try:
        return execute(parser.parse_intermixed_args(argv))
    except KeyboardInterrupt:
        print("interrupted before training began; nothing was lost", file=sys.stderr)
        return 130
