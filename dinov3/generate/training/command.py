"""``dinov3 dit train``: a diffusion transformer on shards, from a YAML."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dinov3.config.dit import DIT
from dinov3.engine import command
from dinov3.engine.command import Kind

if TYPE_CHECKING:
    from dinov3.engine.stages.plan import MakeJob


def _make() -> MakeJob:
    from dinov3.generate.training.job import DitJob

    return DitJob


KIND = Kind(DIT, _make)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 dit train``."""
    command.add_arguments(parser, recipes="dit")
    parser.description = (
        "Train a diffusion transformer on the shards of `dinov3 dit extract`. The same command again continues the run."
    )
    parser.set_defaults(run=KIND.execute)


def main(argv: list[str] | None = None) -> int:
    """Entry point for programs."""
    return KIND.main("dinov3 dit train", "Train a diffusion transformer.", argv)
