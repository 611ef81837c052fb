"""``dinov3 finetune``: a head on a backbone, from a YAML; ``report``, ``evaluate`` and ``export`` are for finished ones."""

from __future__ import annotations

import argparse
from importlib import import_module

from dinov3.engine import command
from dinov3.finetune.kinds import kind_of, room_of
from dinov3.system.errors import UsageError
from dinov3.system.paths import expanded

WORDS = ("report", "evaluate", "export")
OWN = {
    "report": ("out",),
    "evaluate": ("out", "data", "backbone", "tta", "max_bad_frac"),
    "export": ("out",),
}  # options of each word
TRAINING = ("config_file", "output_dir", "resume_from", "no_resume", "print_config")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 finetune``."""
    about = "`report RUN...`: finished runs side by side; `evaluate RUN`: its scores on --data; `export RUN`: ONNX; or "
    command.add_arguments(parser, words="key=value", about=about, recipes="finetune")
    parser.add_argument(
        "--out", type=expanded, help="report: HTML page; evaluate: folder of results; export: file.onnx"
    )
    parser.add_argument("--data", help="evaluate: labelled images, as train.dataset_path")
    parser.add_argument("--backbone", type=expanded, help="evaluate: a compressed copy of the classifier's backbone")
    parser.add_argument(
        "--max-bad-frac", type=float, help="evaluate: share of unusable images that ends the command (default 0.01)"
    )
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
            raise UsageError("finetune evaluate: needs one classifier, --data and --out")
        limit = {} if args.max_bad_frac is None else {"max_bad_frac": args.max_bad_frac}
        asked = Asked(paths[0], args.data, args.out, args.backbone, args.tta, **limit)
        evaluate = import_module(f"{room_of(paths[0])}.evaluate").evaluate
        return int(evaluate(asked))
    if word == "export":
        from dinov3.finetune.headed.graph import export

        if len(paths) != 1 or args.out is None:
            raise UsageError("finetune export: needs one run of `dinov3 finetune` and --out FILE.onnx")
        print("\n".join(export(import_module(f"{room_of(paths[0])}.graph").graph_of(paths[0]), args.out)))
        return 0
    return kind_of(args.config_file, args.opts).execute(args)


def _refuse_idle(args: argparse.Namespace, word: str) -> None:
    """UsageError for an option that would do nothing."""
    given = {
        name
        for name in (*TRAINING, *OWN["evaluate"])
        if getattr(args, name) is not None and getattr(args, name) is not False
    }
    if idle := sorted(given - set(OWN.get(word, TRAINING))):
        option = f"--{idle[0].replace('_', '-')}"
        what = (
            f"does nothing with `{word}`"
            if word
            else "is for `report`, `evaluate` or `export`: a run's folder is --output-dir"
        )
        raise UsageError(f"finetune: {option}: {what}")
