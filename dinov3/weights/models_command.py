"""``dinov3 models``: architectures with their dimensions, parameters and FLOPs."""

from __future__ import annotations

import argparse

from dinov3.models.build import backbone_lines, model_lines
from dinov3.system.paths import expanded
from dinov3.weights.own import load_backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 models``."""
    parser.add_argument("weights", type=expanded, nargs="?", help="run or weight file: its widths, block by block")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.weights is not None:
        backbone = load_backbone(args.weights)
        print("\n".join(backbone_lines(backbone, getattr(backbone, "preprocess", {}).get("size") or 224)))
        return 0
    for line in model_lines():  # the largest take seconds: each line as soon as it is known
        print(line, flush=True)
    return 0
