"""``dinov3 <command>``: parse, call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from dinov3 import __version__
from dinov3.config.arguments import unrecognised
from dinov3.distributed.report import report
from dinov3.system import console

# Every command is a module with ``add_arguments(parser)`` and ``execute(args) -> exit code``. Only the module of the
# command that was asked for is imported, so that help is there at once. Errors that were foreseen are raised by it.
COMMANDS = {
    "train": ("dinov3.train.command", "train a backbone without labels, from a YAML"),
    "submit": ("dinov3.launch.command", "train on a SLURM cluster, or on this machine as it would run there"),
    "config": ("dinov3.config.about.command", "what a key means; all keys with their defaults"),
    "plan": ("dinov3.plan.command", "what a training will cost: memory, traffic, hours, before it is begun"),
    "data": ("dinov3.survey.command", "what is in a data set, before training depends on it"),
    "features": ("dinov3.features.command", "features of a data set through a frozen backbone, onto disk"),
    "eval": ("dinov3.eval.command", "frozen features measured: classes, segmentation, depth, matching, tracking"),
    "video": (
        "dinov3.dense.video.video_command",
        "a video through a frozen backbone: masks carried along, features, colours",
    ),
    "dit": ("dinov3.generate.command", "patch features in shards, as the condition of a diffusion transformer"),
    "export": (
        "dinov3.weights.command",
        "a backbone for other programs: Meta .pth, Hugging Face, timm, ONNX, safetensors",
    ),
    "compress": ("dinov3.compress.command", "a smaller backbone: fewer heads, neurons, ranks or bits, with a report"),
    "report": ("dinov3.pictures.run_page", "a run on one self-contained HTML page"),
    "viz": ("dinov3.pictures.command", "pictures: patch features as colours, similarity, attention, curves of a run"),
    "models": ("dinov3.weights.models_command", "architectures: dimensions, parameters, FLOPs"),
    "da3-check": (
        "dinov3.train.da3_check",
        "does a DA3 teacher line up with the student? one batch, numbers, a picture",
    ),
    "doctor": ("dinov3.launch.doctor", "is this machine ready to train, and what to do if not"),
}


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """All commands, and the arguments of ``chosen``."""
    parser = argparse.ArgumentParser(prog="dinov3", description="Pretrain vision backbones without labels.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            room = import_module(module)
            room.add_arguments(command)
            command.set_defaults(call=room.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``dinov3``; returns the exit code."""
    console.prepare()
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(next((word for word in argv if word in COMMANDS), None))
    args, rest = parser.parse_known_args(argv)
    # argparse takes all positional words at the first of them; overrides may come after options too
    if rest and hasattr(args, "opts") and not any(word.startswith("-") for word in rest):
        args.opts += rest
    elif rest:
        parser.error(unrecognised(rest, argv, takes_overrides=hasattr(args, "opts")))
    try:
        code: int = args.call(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it
    except Exception as error:  # noqa: BLE001 - raised again unless it was foreseen
        return report(error)
    return code


if __name__ == "__main__":
    sys.exit(main())
