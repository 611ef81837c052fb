"""``dinov3 plan``: what a training will cost, before it is begun."""

from __future__ import annotations

import argparse
import json
import sys

from dinov3.config.arguments import refuse_a_model_nobody_chose
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_stages
from dinov3.config.recipes import config_file
from dinov3.system.bars import Bar
from dinov3.system.cards import CARDS, card

STEPS = 3  # pieces of work a plan is made of


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
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{value:g} is not above 0 and at most 1")
    return value


def execute(args: argparse.Namespace) -> int:
    """Print the plan of every stage. Raises ConfigError."""
    refuse_a_model_nobody_chose(args.config_file, args.opts)
    stages = load_stages(args.config_file, args.opts)
    import torch

    from dinov3.engine.precision import DTYPES, resolve_block
    from dinov3.plan.estimate import SHARE, as_json, plan
    from dinov3.plan.table import table

    known = None if args.card is None else card(args.card)
    machine = args.gpus_per_machine or (8 if known is None else known.machine)
    printed = []
    for stage in stages:
        wanted = stage.cfg.compute_precision
        if stage.cfg.train.device == "cpu":
            dtype = resolve_block(wanted, torch.device("cpu")).dtype
        else:  # fp16 would need loss scaling, so a GPU that has bf16 takes that
            dtype = DTYPES["fp32" if wanted.param_dtype == "fp32" else "bf16"]
        with Bar(STEPS, about="counting", unit="parts", shown=not args.json or sys.stderr.isatty()) as bar:
            try:
                made = plan(
                    stage.cfg,
                    card=known,
                    gpus=args.gpus,
                    per_machine=machine,
                    dtype=dtype,
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
