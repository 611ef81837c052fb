"""``dinov3 finetune``: a classifier on a backbone, from a YAML; ``report``: finished runs side by side."""

from __future__ import annotations

import argparse

from dinov3.config.errors import ConfigError
from dinov3.engine import command
from dinov3.finetune.kinds import kind_of
from dinov3.system.paths import expanded

REPORT = "report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 finetune``."""
    command.add_arguments(parser, words="key=value", about="`report RUN…`: finished runs side by side; or ")
    parser.add_argument("--out", type=expanded, help="report: HTML page to write (default: the table is printed alone)")


def execute(args: argparse.Namespace) -> int:
    """Run the command; the exit code of the run. Raises what ``report`` turns into a line and a code."""
    if args.opts[:1] == [REPORT]:
        from dinov3.finetune.report import report

        if args.config_file or args.output_dir or args.resume_from or args.no_resume or args.print_config:
            raise ConfigError("command line", REPORT, "takes runs and --out, no options of training")
        return report([expanded(word) for word in args.opts[1:]], args.out)
    if args.out is not None:
        raise ConfigError("command line", "--out", "is for `dinov3 finetune report`: a run's folder is --output-dir")
    return kind_of(args.config_file, args.opts).execute(args)
