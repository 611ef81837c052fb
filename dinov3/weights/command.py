"""``dinov3 export``: a backbone for other programs."""

from __future__ import annotations

import argparse

from dinov3.system.paths import expanded
from dinov3.weights.export import FORMATS, export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 export``."""
    parser.description = (
        "Writes the backbone of a run (its EMA) or of any weight file in another layout, has it read back by "
        "the program it is for, compares the tokens, and puts a model card beside it."
    )
    parser.add_argument("source", type=expanded, help="run, checkpoint, weight file or Hugging Face folder")
    parser.add_argument(
        "--out", type=expanded, required=True, help="file to write (hf: folder), for example backbone.pth"
    )
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of --out")
    parser.add_argument("--heads", action="store_true", help='meta only: {"teacher": ...} with backbone and heads')


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    print("\n".join(export(args.source, args.out, layout=args.format, heads=args.heads)))
    return 0
