"""``dinov3 <command>``: parse, call."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from dinov3 import __version__
from dinov3.config.errors import EXIT_CONFIG, EXIT_IO, EXIT_LOCKED, ConfigError
from dinov3.train import command as train_command

# Commands with a module of their own: ``add_arguments(parser)`` and ``execute(args) -> exit code``. Only the module of the
# command that was asked for is imported, so that help is there at once.
COMMANDS = {
    "submit": ("dinov3.launch.command", "train on a SLURM cluster, or on this machine as it would run there"),
    "data": ("dinov3.survey.command", "what is in a data set, before training depends on it"),
    "features": ("dinov3.features.command", "features of a data set through a frozen backbone, onto disk"),
    "report": ("dinov3.pictures.run_page", "a run on one self-contained HTML page"),
    "viz": ("dinov3.pictures.command", "pictures: patch features as colours, similarity, attention, curves of a run"),
    "eval": ("dinov3.eval.command", "k-NN, linear probe, logistic regression or retrieval on frozen features"),
    "compress": ("dinov3.compress.command", "a smaller backbone: fewer heads, neurons, ranks or bits, with a report"),
    "doctor": ("dinov3.launch.doctor", "is this machine ready to train, and what to do if not"),
}

EXPORT_FORMATS = ("meta", "safetensors", "hf", "timm", "onnx")


def _config(args: argparse.Namespace) -> int:
    from dinov3.config.default_yaml import default_yaml
    from dinov3.config.explain import explain

    try:
        print(explain(args.key) if args.action == "explain" else default_yaml(), end="")
    except ConfigError as error:
        return train_command.fail(error, EXIT_CONFIG)
    return 0


def _models(args: argparse.Namespace) -> int:
    from dinov3.models.build import backbone_lines, model_lines

    if args.weights is not None:
        from dinov3.weights.own import load_backbone

        backbone = load_backbone(args.weights)
        size = getattr(backbone, "preprocess", {}).get("size") or 224
        print("\n".join(backbone_lines(backbone, size)))
        return 0
    for line in model_lines():  # the largest take seconds: each line as soon as it is known
        print(line, flush=True)
    return 0


def _export(args: argparse.Namespace) -> int:
    from dinov3.weights.export import export

    print("\n".join(export(args.source, args.out, layout=args.format, heads=args.heads)))
    return 0


def _reported(call: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """``call(args)``; foreseeable errors become one line on stderr and an exit code."""
    from dinov3.data.errors import DataError, LoaderError, TooManyBadSamples
    from dinov3.runs.checkpoint import CheckpointError
    from dinov3.runs.lock import RunLocked
    from dinov3.features.errors import FeatureError
    from dinov3.weights.files import WeightsError

    try:
        return call(args)
    except RunLocked as error:
        return train_command.fail(error, EXIT_LOCKED)
    except (ConfigError, DataError, WeightsError, FeatureError) as error:
        return train_command.fail(error, EXIT_CONFIG)
    except (CheckpointError, LoaderError, TooManyBadSamples, OSError) as error:
        return train_command.fail(error, EXIT_IO)


def _da3_check(args: argparse.Namespace) -> int:
    from dinov3.train import da3_check

    return da3_check.execute(args)


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """All commands, and the arguments of those in this file and of ``chosen``."""
    parser = argparse.ArgumentParser(prog="dinov3", description="Pretrain vision backbones without labels.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser(
        "train", help="train a backbone from a YAML", description="Train a backbone without labels."
    )
    train_command.add_arguments(train)
    train.set_defaults(call=train_command.execute)

    config = commands.add_parser("config", help="what a key means; all keys with their defaults")
    actions = config.add_subparsers(required=True, dest="action", metavar="action")
    explain = actions.add_parser("explain", help="meaning, unit, default and readers of a key or block")
    explain.add_argument("key", help="for example optim.lr, or a block: optim")
    actions.add_parser("default", help="print the default config with comments")
    config.set_defaults(call=_config)

    da3 = commands.add_parser(
        "da3-check", help="does a DA3 teacher line up with the student? one batch, numbers and a picture"
    )
    da3.add_argument("--config-file", type=Path, help="YAML with da3.enabled: true")
    da3.add_argument("--out", type=Path, help="PNG to write: crops, masks, the tokens of both as colours")
    da3.add_argument("opts", nargs="*", metavar="key=value", help="overrides, e.g. da3.random_init=true")
    da3.set_defaults(call=_da3_check)

    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == chosen:
            room = import_module(module)
            room.add_arguments(command)
            command.set_defaults(call=partial(_reported, room.execute))

    models = commands.add_parser("models", help="architectures: dimensions, parameters, FLOPs")
    models.add_argument("weights", type=Path, nargs="?", help="run or weight file: its widths, block by block")
    models.set_defaults(call=partial(_reported, _models))

    export = commands.add_parser(
        "export",
        help="a backbone for other programs: Meta .pth, Hugging Face, timm, ONNX, safetensors",
        description="Writes the backbone of a run (its EMA) or of any weight file in another layout, has it read back by "
        "the program it is for, compares the tokens, and puts a model card beside it.",
    )
    export.add_argument("source", type=Path, help="run, checkpoint, weight file or Hugging Face folder")
    export.add_argument("--out", type=Path, required=True, help="file to write (hf: folder), for example backbone.pth")
    export.add_argument("--format", choices=EXPORT_FORMATS, help="default: by the ending of --out")
    export.add_argument("--heads", action="store_true", help='meta only: {"teacher": ...} with backbone and heads')
    export.set_defaults(call=partial(_reported, _export))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``dinov3``; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(argv[0] if argv else None)
    args, rest = parser.parse_known_args(argv)
    # argparse takes all positional words at the first of them; overrides may come after options too
    if rest and hasattr(args, "opts") and not any(word.startswith("-") for word in rest):
        args.opts += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code: int = args.call(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `dinov3 models | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it
    return code


if __name__ == "__main__":
    sys.exit(main())
