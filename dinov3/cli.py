"""``dinov3 <command>``: parse, call.

What it needs is imported in ``main``, where Ctrl-C is answered; until then Python would end with a traceback.
"""

from __future__ import annotations

import sys

from dinov3.system.interrupt import interruptible

TYPE_CHECKING = False  # as in dinov3/__init__.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# By what people want: command -> module, what it does, an example. A module has ``add_arguments(parser)`` and
# ``execute(args) -> exit code``. Only that of the command that was asked for is imported, so that help is there at
# once. Errors that were foreseen are raised by it.
GROUPS = {
    "begin": {
        "init": (
            "dinov3.advice.command",
            "a commented YAML for these images, this machine and this goal",
            "init photos",
        ),
        "data": ("dinov3.survey.command", "what is in a data set, before training depends on it", "data check photos"),
        "config": (
            "dinov3.config.about.command",
            "what keys mean, which there are, what differs",
            "config search crop",
        ),
        "plan": (
            "dinov3.plan.command",
            "what a training will cost: memory, traffic, hours, before it is begun",
            "plan --config-file vitl_im1k --gpus 8 --card h100",
        ),
        "doctor": ("dinov3.launch.doctor", "is this machine ready to train, and what to do if not", "doctor"),
        "models": ("dinov3.weights.models_command", "architectures: dimensions, parameters, FLOPs", "models"),
    },
    "train": {
        "train": ("dinov3.train.command", "train a backbone without labels, from images or a YAML", "train photos"),
        "submit": (
            "dinov3.launch.command",
            "train on a SLURM cluster, or on this machine as it would run there",
            "submit --config-file photos_vits --output-dir runs/photos --local train.dataset_path=photos",
        ),
        "da3-check": (
            "dinov3.train.da3_check",
            "does a DA3 teacher line up with the student? one batch, numbers, a picture",
            "da3-check --config-file vitb_da3 --out da3.png train.dataset_path=photos",
        ),
    },
    "look at runs": {
        "runs": ("dinov3.overview.command", "every run below a folder in a table, live with --watch", "runs --watch"),
        "report": ("dinov3.pictures.run_page", "a run on one HTML page, or live with --serve", "report runs/photos"),
        "compare": ("dinov3.overview.compare", "runs beside each other on one HTML page", "compare runs/a runs/b"),
        "viz": (
            "dinov3.pictures.command",
            "pictures: patch features as colours, similarity, attention, curves of a run",
            "viz pca --weights runs/photos --data photos --out pca.png",
        ),
    },
    "use a backbone": {
        "eval": (
            "dinov3.eval.command",
            "frozen features measured: classes, segmentation, depth, matching, tracking",
            "eval knn --weights runs/photos --train labelled",
        ),
        "features": (
            "dinov3.generate.features_command",
            "features of a data set through a frozen backbone, onto disk",
            "features --weights runs/photos --data photos --out features",
        ),
        "export": (
            "dinov3.weights.command",
            "a backbone for other programs: Meta .pth, Hugging Face, timm, ONNX, safetensors",
            "export runs/photos --out backbone.onnx",
        ),
        "finetune": (
            "dinov3.finetune.command",
            "a head on a backbone, from a YAML: classes, masks, boxes or depth",
            "finetune --config-file pcam_lora model.weights=runs/photos",
        ),
        "pcam": (
            "dinov3.finetune.pcam.command",
            "the files of PatchCamelyon: fetched, checked, or made",
            "pcam synth --out pcam",
        ),
        "compress": (
            "dinov3.compress.command",
            "a smaller backbone: fewer heads, neurons, ranks or bits, with a report",
            "compress runs/photos --quantize bf16 --out small.safetensors",
        ),
        "bench": (
            "dinov3.compress.bench_command",
            "a backbone's speed, memory and fidelity here: number formats, sizes, batches",
            "bench infer runs/photos --batch 1 8 32",
        ),
        "video": (
            "dinov3.dense.video.video_command",
            "a video through a frozen backbone: masks carried along, features, colours",
            "video --weights runs/photos --input film.mp4 --out film",
        ),
        "dit": (
            "dinov3.generate.command",
            "a diffusion transformer that sees patch features: shards, training, samples",
            "dit extract --weights runs/photos --data photos --out shards",
        ),
    },
    "the shell": {
        "completion": (
            "dinov3.system.completion",
            "completion of these commands for bash, zsh or tcsh",
            "completion bash",
        ),
    },
}
# What they do is on the disk or in the queue, whatever became of their lines; of the others the lines are the answer.
LASTING = {"train", "finetune", "dit", "submit"}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def build_parser(chosen: str | None = None, *, whole: bool = False) -> argparse.ArgumentParser:
    """All commands, and the arguments of ``chosen``, or of all (seconds)."""
    import argparse
    from functools import partial
    from importlib import import_module

    from dinov3 import __version__
    from dinov3.system.parser import Parser

    parser = Parser(
        prog="dinov3",
        usage="dinov3 [-h] [--version] command ...",
        description=overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="dinov3 COMMAND --help has the arguments of a command, and an example.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    # the overview above has the list, in groups
    commands = parser.add_subparsers(required=True, metavar="command", help=None if whole else argparse.SUPPRESS)
    for name, (module, text, example) in COMMANDS.items():
        command = commands.add_parser(name, prog=f"dinov3 {name}", help=text, description=text)
        if whole or name == chosen:
            room = import_module(module)
            room.add_arguments(command)
            command.set_defaults(call=room.execute, whole=partial(build_parser, whole=True))
        command.epilog = f"example: dinov3 {example}" + (f"\n\n{command.epilog}" if command.epilog else "")
    return parser


def overview() -> str:
    """What each command is for, by what people want."""
    lines = ["Pretrain vision backbones without labels."]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:<11} {text}" for name, (_, text, _) in commands.items())]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``dinov3``; returns the exit code."""
    return interruptible(lambda: _call(sys.argv[1:] if argv is None else list(argv)))


def _call(argv: list[str]) -> int:
    from difflib import get_close_matches

    from dinov3.config.arguments import unrecognised
    from dinov3.distributed.report import report
    from dinov3.system import console
    from dinov3.system.leaving import leave_quickly
    from dinov3.system.parser import options_of

    console.prepare()
    leave_quickly()
    parser = build_parser(next((word for word in argv if word in COMMANDS), None))
    first = next((word for word in argv if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        near = get_close_matches(first, COMMANDS, 1)
        parser.error(
            f"{first}: no such command: " + (f"did you mean {near[0]}?" if near else "dinov3 --help lists them")
        )
    args, rest = parser.parse_known_args(argv)
    # argparse takes all positional words at the first of them; overrides may come after options too
    if rest and hasattr(args, "opts") and not any(word.startswith("-") for word in rest):
        args.opts += rest
    elif rest:
        known = options_of(parser, argv)
        parser.error(unrecognised(rest, argv, takes_overrides=hasattr(args, "opts"), options=known))
    try:
        code: int = args.call(args)
        if code == 0 and not LASTING.intersection(argv[:1]):
            console.flush_answer()
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - raised again unless it was foreseen
        return report(error)
    return code


if __name__ == "__main__":
    sys.exit(main())
