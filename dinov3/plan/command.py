"""``dinov3 plan``: what a training will cost, before it is begun."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dinov3.config.arguments import COMMAND_LINE, refuse_a_model_nobody_chose
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_stages
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.system.bars import Bar
from dinov3.system.cards import CARDS, Card, card
from dinov3.system.paths import expanded

if TYPE_CHECKING:
    import torch

STEPS = 3  # pieces of work a plan is made of
MOST_PROCESSES, LEAST_SHARE = 100_000, 0.001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 plan``."""
    parser.add_argument("--config-file", type=config_file, help="YAML, or the short name of a shipped recipe")
    parser.add_argument("--gpus", type=_positive, default=1, metavar="N", help="processes, one GPU each (default: 1)")
    parser.add_argument("--gpus-per-machine", type=_positive, metavar="N", help="default: what is usual with the card")
    parser.add_argument("--card", choices=[known.name for known in CARDS], type=str.lower, help="kind of GPU")
    parser.add_argument(
        "--share", type=_share, help="of the card's peak that a step reaches (default: 0.35, an assumption)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, e.g. student.arch=vit_base")


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 to {MOST_PROCESSES:,}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not LEAST_SHARE <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from {LEAST_SHARE:g} to 1")
    return value


def _dtype(cfg: Config, named: Card | None, gpus: int) -> torch.dtype:
    """The number format of the run: on a CPU where that is asked for, or where there is no GPU and neither a card nor several
    GPUs were named."""
    import torch

    from dinov3.engine.precision import DTYPES, resolve_block

    wanted, device = cfg.compute_precision, cfg.train.device
    if device == "cpu" and named is not None:
        raise ConfigError(COMMAND_LINE, "--card", "contradicts train.device=cpu: leave one of them out")
    here = device == "auto" and named is None and gpus == 1
    if device == "cpu" or (here and not torch.cuda.is_available()):
        return resolve_block(wanted, torch.device("cpu")).dtype
    return DTYPES["fp32" if wanted.param_dtype == "fp32" else "bf16"]  # fp16 would need loss scaling: a GPU takes bf16


def _refuse_a_folder(words: Sequence[str]) -> None:
    if folders := [word for word in words if "=" not in word and expanded(word).is_dir()]:
        text = f"plan takes no images: `dinov3 init {shlex.quote(folders[0])} --plan` chooses a config for them and counts it"
        raise ConfigError(COMMAND_LINE, folders[0], text)


def execute(args: argparse.Namespace) -> int:
    """Print the plan of every stage. Raises ConfigError."""
    _refuse_a_folder(args.opts)
    refuse_a_model_nobody_chose(args.config_file, args.opts)
    stages = load_stages(args.config_file, args.opts)
    from dinov3.plan.estimate import SHARE, as_json, plan
    from dinov3.plan.table import table

    known = None if args.card is None else card(args.card)
    machine = args.gpus_per_machine or (8 if known is None else known.machine)
    printed = []
    for stage in stages:
        with Bar(STEPS, about="counting", unit="parts", shown=not args.json or sys.stderr.isatty()) as bar:
            try:
                made = plan(
                    stage.cfg,
                    card=known,
                    gpus=args.gpus,
                    per_machine=machine,
                    dtype=_dtype(stage.cfg, known, args.gpus),
                    share=args.share or SHARE,
                    told=lambda what, bar=bar: bar.update(),  # type: ignore[misc]
                )
            except ValueError as error:  # an architecture or teacher that the keys alone could not rule out
                raise ConfigError("config", "", str(error)) from error
        heading = f"stage {stage.number}: {stage.name}\n" if stage.name else ""
        printed.append(
            json.dumps({"stage": stage.name, **as_json(made)}, indent=1) if args.json else heading + table(made)
        )
    print("\n".join(printed) if not args.json else (printed[0] if len(printed) == 1 else f"[{','.join(printed)}]"))
    return 0
