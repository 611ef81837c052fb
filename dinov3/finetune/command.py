"""``dinov3 finetune``: a classifier or a segmenter on a backbone, from a YAML; ``report`` and ``evaluate`` look at finished ones."""

from __future__ import annotations

import argparse
from importlib import import_module

from dinov3.config.errors import ConfigError
from dinov3.engine import command
from dinov3.finetune.kinds import evaluator_of, kind_of
from dinov3.system.paths import expanded

WORDS = ("report", "evaluate")
OWN = {"report": ("out",), "evaluate": ("out", "data", "backbone", "tta")}  # options of each word
TRAINING = ("config_file", "output_dir", "resume_from", "no_resume", "print_config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 finetune``."""
    about = "`report RUN...`: finished runs side by side; `evaluate CLASSIFIER`: its scores on --data; or "
    command.add_arguments(parser, words="key=value", about=about, recipes="finetune")
    parser.add_argument("--out", type=expanded, help="report: HTML page; evaluate: folder of results, for report")
    parser.add_argument("--data", help="evaluate: labelled images, as train.dataset_path")
    parser.add_argument("--backbone", type=expanded, help="evaluate: a compressed copy of the classifier's backbone")
    parser.add_argument("--tta", action="store_true", help="evaluate: mean over the eight turns and mirror images")


def execute(args: argparse.Namespace) -> int:
    """Run the command; the exit code of the run. Raises what ``report`` turns into a line and a code."""
    word = args.opts[0] if args.opts[:1] and args.opts[0] in WORDS else ""
    _refuse_idle(args, word)
    paths = [expanded(path) for path in args.opts[1:]] if word else []
    if word == "report":
        from dinov3.finetune.report import report

        return report(paths, args.out)
    if word == "evaluate":
        from dinov3.finetune.evaluate import Asked

        if len(paths) != 1 or args.data is None or args.out is None:
            raise ConfigError("command line", word, "needs one classifier, --data and --out")
        evaluate = import_module(evaluator_of(paths[0])).evaluate
        return int(evaluate(Asked(paths[0], args.data, args.out, args.backbone, args.tta)))
    return kind_of(args.config_file, args.opts).execute(args)


def _refuse_idle(args: argparse.Namespace, word: str) -> None:
    """ConfigError for an option that would do nothing."""
    given = {name for name in (*TRAINING, *OWN["evaluate"]) if getattr(args, name)}
    if idle := sorted(given - set(OWN.get(word, TRAINING))):
        option = f"--{idle[0].replace('_', '-')}"
        what = (
            f"does nothing with `{word}`" if word else "is for `report` or `evaluate`: a run's folder is --output-dir"
        )
        raise ConfigError("command line", option, what)
