"""Time and memory of one training step on synthetic crops: one JSON line.

    python benchmarks/step.py --arch vit_small --batch 8 --global-size 224 --local-size 96 --prototypes 65536 --steps 5
    python benchmarks/step.py ... --other 'python their_step.py --batch 8'

Plain steps are timed first, with no wait between them; then as many with their parts, which wait for the device.
``--other`` runs this measurement and that command in turns, A B A B. The command must print a JSON line with
"seconds_per_step", and may print "peak_gib".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.in_turns import OtherFailed, in_turns
from benchmarks.measure import Compilations, PeakMemory, plain_steps, print_row, profile_steps
from benchmarks.reference import official
from benchmarks.synthetic_step import Recipe, SyntheticStep, shares
from dinov3.distributed import context

WARMUP = 2  # on a GPU more: the number of masked patches is compiled as a constant first, then as a variable
WARMUP_GPU = 5


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The figures of ``args.steps`` steps on ``device``."""
    recipe = recipe_of(args)
    compilations, memory = Compilations(), PeakMemory(device)
    step = SyntheticStep(recipe, device)
    warmup, n = (WARMUP_GPU if device.type == "cuda" else WARMUP), args.steps
    plain_steps(step, 0, warmup, device)
    memory.restart()
    seconds = median(plain_steps(step, warmup, n, device))
    peak = memory.close()
    parts = step.wrapped()
    with_parts = sum(plain_steps(step, warmup + n, n, device)) / n
    parts.unwrap()
    reference = official(args.arch, args.batch, device.type)
    result = {
        "benchmark": "step",
        **{k: v for k, v in vars(args).items() if k not in ("threads", "other", "rounds", "profile")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "runs_in": step.precision.name,
        "prepared": step.prepared,
        "threads": torch.get_num_threads(),
        "seconds_per_step": round(seconds, 4),
        "images_per_second": round(args.batch / seconds, 2),
        "peak_gib": round(peak, 2),
        "share": shares(parts, n, with_parts),
        "compiled": compilations.figures(),
        "reference": None if reference is None else reference.row(),
    }
    if args.profile:
        result["profile"] = profile_steps(step, warmup + 2 * n, 3, device)
    return result


def recipe_of(args: argparse.Namespace) -> Recipe:
    names = ("arch", "batch", "patch", "global_size", "local_size", "locals", "prototypes", "drop_path", "dtype")
    more = dict(word.split("=", 1) for word in args.keys)
    return Recipe(**{name: getattr(args, name) for name in names}, compile=args.compile, more=more)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--global-size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--locals", type=int, default=8)
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--drop-path", type=float, default=0.0)
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="on a GPU")
    parser.add_argument(
        "--steps", type=int, default=5, help=f"measured steps, after {WARMUP} (GPU: {WARMUP_GPU}) that are not"
    )
    parser.add_argument(
        "--keys",
        nargs="+",
        type=_key,
        default=[],
        metavar="key=value",
        help="others of the config: train.checkpointing=true",
    )
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--profile", action="store_true", help="also the most expensive kernels of 3 more steps")
    parser.add_argument("--other", metavar="COMMAND", help="another step's program, run in turns with this one")
    parser.add_argument("--rounds", type=int, default=3, help="turns with --other")
    return parser


def _key(word: str) -> str:
    if "=" not in word:
        raise argparse.ArgumentTypeError(f"{word} is not key=value")
    return word


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(given)
    if args.other:
        ours = [sys.executable, str(Path(__file__).resolve()), *without_other(given)]
        try:
            print(json.dumps(in_turns(ours, args.other, args.rounds)))
        except OtherFailed as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        print_row(measure(args, context.setup()))  # of torchrun's processes each prints its own
    finally:
        context.teardown()
    return 0


def without_other(given: list[str]) -> list[str]:
    """The arguments of one turn: all but ``--other`` and ``--rounds`` with what follows them."""
    kept: list[str] = []
    skip = False
    for argument in given:
        if skip:
            skip = False
        elif argument in ("--other", "--rounds"):
            skip = True
        elif not argument.startswith(("--other=", "--rounds=")):
            kept.append(argument)
    return kept


if __name__ == "__main__":
    sys.exit(main())
