"""The command line of every kind of training: one line for every foreseeable mistake, a documented exit code.

A kind of training is a schema and a maker of jobs; ``Kind`` has both, imports the second late, and makes a command of
them that continues what it finds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dinov3.config.arguments import unrecognised
from dinov3.config.dump import to_dict, to_yaml
from dinov3.config.errors import ConfigError
from dinov3.config.kind import Schema
from dinov3.config.load import load_stages
from dinov3.config.recipes import config_file
from dinov3.config.stages import Stage
from dinov3.config.yaml_file import read_yaml
from dinov3.distributed.report import report
from dinov3.runs.new_folder import folder_for
from dinov3.runs.output import check_output_folder
from dinov3.system import console
from dinov3.system.interrupt import interruptible
from dinov3.system.leaving import leave_quickly
from dinov3.system.parser import Parser, options_of
from dinov3.system.paths import expanded

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob
    from dinov3.runs.signals import StopRequest

EPILOG = """\
The same command run again continues the run; a finished run says so and ends with 0.
exit codes: 0 done, 2 words it does not take, 70 too many non-finite steps, 71 below a limit of evaluation.*, saved, 74 checkpoint or file error, 75 folder in use, 78 config or data, 79 hang, 85 stopped and saved, 130 Ctrl-C before training began
"""


class Prepared(NamedTuple):
    """A run that can be started: what is wrong with its config has been said."""

    out: Path  # its folder
    train: Callable[..., int]  # to its end: the exit code. Takes the StopRequest of a caller that has one


class Kind(NamedTuple):
    """One kind of training, as the command line knows it."""

    schema: Schema[Any]
    make: Callable[[], MakeJob]  # called late: a wrong config is reported before torch is loaded

    def execute(self, args: argparse.Namespace) -> int:
        """Run the command; the exit code of the run. Raises what ``report`` turns into a line and a code."""
        stages = self.stages(args)
        if args.print_config:
            return print_configs([(heading(stage), stage.cfg) for stage in stages], args)
        return to_the_end(self.prepared(stages, args).train)

    def prepared(self, stages: Sequence[Stage], args: argparse.Namespace) -> Prepared:
        """The run of these stages, about to begin. Raises OSError for a folder that cannot be written to."""
        out = output_folder(args, stages[0].cfg)

        def train(stop: StopRequest | None = None) -> int:
            from dinov3.engine.stages.run import run_stages

            resume = not args.no_resume
            return run_stages(stages, out, self.make(), resume=resume, resume_from=args.resume_from, stop=stop)

        return Prepared(out, train)

    def stages(self, args: argparse.Namespace) -> list[Stage]:
        """What the arguments ask for: one run, or several stages."""
        check_arguments(args)
        return load_stages(args.config_file, args.opts, self.schema)

    def main(self, prog: str, description: str, argv: Sequence[str] | None = None) -> int:
        """Entry point of a module of its own, ``python -m …``."""
        return main(self.execute, add_arguments, prog, description, argv)


def add_arguments(
    parser: argparse.ArgumentParser, *, words: str = "key=value", about: str = "", recipes: str = "train"
) -> None:
    """The arguments of a training command; ``words`` and ``about`` tell what stands beside its options, ``recipes`` whose
    short names are its own."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--config-file",
        type=partial(config_file, kind=recipes),
        help="YAML, or the short name of a shipped recipe; what it leaves out has its default",
    )
    parser.add_argument(
        "--output-dir",
        type=expanded,
        help="run folder (default: train.output_dir where a config gives it, else runs/RECIPE-DATE-N)",
    )
    parser.add_argument(
        "--resume-from", type=expanded, metavar="CKPT", help="go back to this checkpoint; later ones are moved aside"
    )
    parser.add_argument("--no-resume", action="store_true", help="start again; an earlier run is moved aside")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    parser.add_argument("opts", nargs="*", metavar=words, help=f"{about}overrides, e.g. optim.epochs=10")


def check_arguments(args: argparse.Namespace) -> None:
    """ConfigError for arguments that say nothing, or contradict each other."""
    if args.config_file is None and not args.opts and not args.print_config:
        problem = "is missing: nothing says what to train" + (f"; {args.instead}" if "instead" in args else "")
        raise ConfigError("command line", "--config-file", problem)
    if args.no_resume and args.resume_from:
        raise ConfigError("command line", "--resume-from", "contradicts --no-resume: give one of them")


def heading(stage: Stage) -> str:
    """What stands above the config of one of several stages."""
    return f"# stage {stage.number}: {stage.name}\n" if stage.name else ""


def print_configs(configs: Sequence[tuple[str, Any]], args: argparse.Namespace) -> int:
    """Print the resolved configs, each below its heading."""
    for _, cfg in configs:
        cfg.train.output_dir = str(args.output_dir or cfg.train.output_dir)
    print("---\n".join(f"{head}{to_yaml(cfg)}" for head, cfg in configs), end="")
    return 0


def output_folder(args: argparse.Namespace, cfg: Any) -> Path:
    """The run folder, which can be written to. Raises OSError.

    Nobody who names no folder means the one he stands in: the run gets a folder of its own below ``runs``.
    """
    out: Path = args.output_dir or expanded(cfg.train.output_dir)
    if args.output_dir is None and not gives_output_dir(args.config_file, args.opts):
        recipe = args.config_file.stem if args.config_file else "train"
        out = folder_for(recipe, to_dict(cfg), anew=args.no_resume)
        if os.environ.get("RANK", "0") == "0":
            print(f"run folder {out} (--output-dir takes another)", flush=True)
    say_which_folder(out, args)
    if not out.is_dir():  # a finished run may lie in a folder that is only to be read
        check_output_folder(out, "--output-dir" if args.output_dir else "train.output_dir")
    return out


def say_which_folder(out: Path, args: argparse.Namespace) -> None:
    """A line when the command line names two run folders; ``out`` is the one that counts."""
    others = [word.partition("=")[2] for word in args.opts if word.startswith("train.output_dir=")]
    if args.output_dir is None or not others or expanded(others[-1]).absolute() == out.absolute():
        return
    if os.environ.get("RANK", "0") == "0":
        print(f"note: --output-dir {out} counts, train.output_dir={others[-1]} does not", file=sys.stderr, flush=True)


def gives_output_dir(config: Path | None, overrides: Sequence[str]) -> bool:
    """Whether anybody said where the run goes, be it the default."""
    block = read_yaml(config).get("train") if config is not None else None
    given = isinstance(block, dict) and block.get("output_dir") is not None
    return given or any(word.startswith("train.output_dir=") for word in overrides)


def to_the_end(train: Callable[[], int]) -> int:
    """Train, report what was foreseen, leave the process group."""
    from dinov3.distributed.context import teardown

    try:
        return train()
    except Exception as error:  # noqa: BLE001 - raised again unless it was foreseen
        return report(error)  # before teardown: who says it depends on the group
    finally:
        teardown()


def main(
    execute: Callable[[argparse.Namespace], int],
    arguments: Callable[[argparse.ArgumentParser], None],
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
) -> int:
    """A training command from its words to its exit code."""
    return interruptible(lambda: _call(execute, arguments, prog, description, argv))


def _call(
    execute: Callable[[argparse.Namespace], int],
    arguments: Callable[[argparse.ArgumentParser], None],
    prog: str,
    description: str,
    argv: Sequence[str] | None,
) -> int:
    console.prepare()
    leave_quickly()
    parser = Parser(prog=prog, description=description)
    arguments(parser)
    args, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        words = sys.argv[1:] if argv is None else argv
        parser.error(unrecognised(rest, words, options=options_of(parser, words)))
    try:
        return execute(args)
    except Exception as error:  # noqa: BLE001 - raised again unless it was foreseen
        return report(error)
