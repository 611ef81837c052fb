"""``dinov3 models``: architectures with their dimensions, parameters and FLOPs."""

from __future__ import annotations

import argparse

from dinov3.models.build import model_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 models``: none."""


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    for line in model_lines():  # the largest take seconds: each line as soon as it is known
        print(line, flush=True)
    return 0
