"""``dinov3 bench infer``: what a backbone costs here in every number format, and how close it stays to itself."""

from __future__ import annotations

import argparse
import itertools
import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dinov3.compress.bench import PRECISIONS, Bench, Case, Row
from dinov3.compress.errors import CompressError
from dinov3.compress.labelled import pictures
from dinov3.data.sources import parse_dataset
from dinov3.features.extract import known_device, preprocess_of
from dinov3.models.backbone import Backbone
from dinov3.runs.output import check_output_file
from dinov3.system.bars import Bar
from dinov3.system.columns import aligned
from dinov3.system.cores import cores, load_on_cores
from dinov3.system.files import write_json
from dinov3.system.paths import expanded
from dinov3.weights.fingerprint import procedural_image
from dinov3.weights.own import load_backbone

IMAGES = 64  # read of --images, at most
MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 bench``."""
    parser.description = (
        "Measures a frozen backbone on this machine, now: milliseconds a batch, images/s, memory beside the weights, and the "
        "cosine of its tokens with those in fp32. Number formats: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in PRECISIONS.items())
    )
    parser.add_argument("what", choices=("infer",), help="infer: the forward pass of a frozen backbone")
    parser.add_argument("weights", type=expanded, help="run folder, export, or official weights")
    parser.add_argument("--preset", help="released model the weights are of, when the file cannot tell")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16", "int8"])
    parser.add_argument("--size", nargs="+", type=int, help="px a side (default: the training size)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="images at once (default 1 8)")
    parser.add_argument("--compile", action="store_true", help="every case compiled, too (half a minute and more each)")
    parser.add_argument("--largest", action="store_true", help="also the largest batch that fits")
    parser.add_argument("--images", help=f"whose tokens are compared, at most {IMAGES} (default: a drawn picture)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=expanded, help="JSON of all figures")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    for option, values in (("--size", args.size or []), ("--batch", args.batch)):
        if wrong := [value for value in values if value < 1]:
            raise CompressError(f"{option} {wrong[0]}: at least 1")
    if args.out is not None:
        check_output_file(args.out, "--out")
    backbone = load_backbone(args.weights, preset=args.preset)
    sizes = list(dict.fromkeys(args.size or [preprocess_of(backbone, size="train").size]))
    images = {size: _images(backbone, size, args.images) for size in sizes}
    device = _device(args.device)
    ways = [
        (precision, compiled)
        for precision in dict.fromkeys(args.precision)
        for compiled in (False, True)[: 1 + args.compile]
    ]
    bench, batches = Bench(backbone, device), list(dict.fromkeys(args.batch))
    rows: list[Row] = []
    with Bar(len(ways) * len(sizes) * len(batches), about="bench", unit="cases") as bar:
        for size, batch in itertools.product(sizes, batches):
            for row in bench.rows([Case(*way, size, batch) for way in ways], images[size]):
                rows.append(row)
                bar.update()
    largest = _largest(bench, args, sizes, images) if args.largest else []
    facts = _facts(device)
    print(_table(rows))
    for one in largest:
        print(f"largest batch of {one['size']} px in {one['precision']}: {one['images'] or 'not known'} ({one['how']})")
    print(f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}{load_on_cores()}")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        told = {"weights": str(args.weights), **facts, "rows": [row.told() for row in rows], "largest": largest}
        write_json(args.out, told)
    return 0


def _images(backbone: Backbone, size: int, data: str | None) -> Tensor:
    try:
        preprocess = preprocess_of(backbone, size=size)
    except ValueError as error:  # a size that the patch does not divide
        raise CompressError(f"--size: {error}") from error
    if data is None:
        return procedural_image(backbone.in_chans, size, size)
    return pictures(parse_dataset(data), preprocess, IMAGES, "--images", labelled=False).images


def _device(text: str) -> torch.device:
    try:
        return known_device(text)
    except ValueError as error:
        raise CompressError(f"--device: {error}") from error


def _largest(
    bench: Bench, args: argparse.Namespace, sizes: Sequence[int], images: dict[int, Tensor]
) -> list[dict[str, Any]]:
    found = []
    for precision, size in itertools.product(dict.fromkeys(args.precision), sizes):
        most, how = bench.largest_batch(precision, images[size])
        found.append({"precision": precision, "size": size, "images": most, "how": how})
    return found


def _facts(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "torch": torch.__version__,
    }


def _table(rows: Sequence[Row]) -> str:
    """A line a case, then what could not be measured."""
    lines = [["format", "compiled", "px", "batch", "ms", "images/s", "memory", "weights", "cosine: mean", "least"]]
    left_out: dict[str, None] = {}
    for row in rows:
        case = row.case
        if row.problem:
            left_out[f"left out: {case.precision}{', compiled' if case.compiled else ''}: {row.problem}"] = None
            continue
        told = [case.precision, "yes" if case.compiled else "no", str(case.size), str(case.batch)]
        told += [f"{row.milliseconds:.1f}", f"{row.images_per_second:.1f}"]
        told += ["" if row.memory is None else f"{row.memory / MIB:.0f} MiB", f"{(row.weights or 0) / MIB:.1f} MiB"]
        lines.append([*told, f"{row.mean_cosine:.6f}", f"{row.least_cosine:.6f}"])
    return "\n".join([aligned(lines), *left_out])
