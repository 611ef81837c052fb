"""``dinov3 compress``: a smaller backbone, checked, measured as it lies in its file, with a report."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from dinov3.compress.costs import UNITS, Costs
from dinov3.compress.energy import Cut
from dinov3.compress.errors import CompressError
from dinov3.compress.labelled import Pictures, Probe, pictures
from dinov3.compress.measure import (
    Closeness,
    Latency,
    closeness,
    closeness_of_output,
    file_bytes,
    latencies,
    operations,
)
from dinov3.compress.methods import CALIBRATED, METHODS, Settings, compress
from dinov3.compress.moments import token_count
from dinov3.compress.options import methods_of, steps_of
from dinov3.compress.report import FORMAT, draw, read_report, table
from dinov3.compress.surgery import blocks_of
from dinov3.compress.written import KINDS, NUMBER_FORMATS, Written, check_format, write
from dinov3.config.output import check_output_file
from dinov3.data.sources import parse_dataset
from dinov3.features.extract import preprocess_of
from dinov3.features.preprocess import Preprocess
from dinov3.models.backbone import Backbone
from dinov3.models.build import backbone_lines, describe_backbone
from dinov3.models.int8 import weights_in
from dinov3.system.files import flush
from dinov3.system.paths import expanded
from dinov3.weights.model_card import provenance_of
from dinov3.weights.own import load_backbone
from dinov3.weights.parity import images_for, tokens_of
from dinov3.weights.provenance import Facts

DESCRIPTION = (
    "Removes heads and neurons, factorises matrices or stores fewer bits, writes the model with its architecture, reads "
    "it back, and measures it as it lies in the file. Methods: "
    + "; ".join(f"{name}: {text}" for name, text in METHODS.items())
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 compress``."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "weights", type=expanded, help="run folder, export, or official weights of a vision transformer"
    )
    parser.add_argument("--preset", help="released model the weights are of, when the file cannot tell")
    parser.add_argument("--method", default="none", help="one of these, several with commas, or none (only --quantize)")
    parser.add_argument(
        "--amount",
        help="0.9, or heads=0.89,mlp=0.975: of heads, mlp and svd the share of energy that is kept; of the others the share "
        "of the model's cost that is left",
    )
    parser.add_argument(
        "--budget", type=float, help="what is left of the whole model, e.g. 0.7; widths are chosen for it"
    )
    parser.add_argument("--of", default="parameters", choices=UNITS, help="what --budget and --amount are a share of")
    parser.add_argument(
        "--multiple", type=int, default=1, help="widths and ranks are multiples of it (8 suits hardware)"
    )
    parser.add_argument("--no-refit", action="store_true", help="leave out the least squares through the cut model")
    parser.add_argument("--calibrate", help="images, labels are not looked at: folder, or a data set as in training")
    parser.add_argument("--images", type=int, default=256, help="calibration images (default 256)")
    parser.add_argument("--size", type=int, help="px of the square images are resized to (default: the training size)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--quantize", default="none", choices=NUMBER_FORMATS, help="numbers of the file, after --method"
    )
    parser.add_argument("--train", help="labelled images: a linear layer is fitted to the uncompressed features")
    parser.add_argument("--test", help="labelled images on which it is scored before and after")
    parser.add_argument("--labelled-images", type=int, default=2000, help="most that are read of each (default 2000)")
    parser.add_argument(
        "--beside", type=expanded, nargs="+", default=[], help="reports of other runs, drawn beside this one"
    )
    parser.add_argument(
        "--out", type=expanded, required=True, help="NAME.safetensors or NAME.onnx; NAME.report.json and .png"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    methods = methods_of(args.method)
    _check(args, methods)
    others = [read_report(path) for path in args.beside]
    whole = load_backbone(args.weights, preset=args.preset)
    blocks_of(whole)
    preprocess = _preprocess(whole, args)
    sets = _pictures(args, preprocess)
    batches = sets["calibrate"].batches(args.batch_size) if "calibrate" in sets else []
    size = args.size or preprocess.size
    assert isinstance(size, int)
    tokens = token_count(whole, torch.empty(1, 1, size, size))
    costs = Costs(args.of, tokens, size, KINDS.get(args.quantize, "bf16" if args.quantize == "bf16" else "none"))
    settings = Settings(costs, args.multiple, not args.no_refit)
    steps = steps_of(whole, methods, args.amount, args.budget, settings)
    small, cuts = compress(whole, steps, settings, batches)
    told = provenance_of(args.weights, cast(Any, whole).described, [f"compressed: {_name(args)}"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{args.out.name}.", dir=args.out.parent) as folder:
        place = Path(folder) / args.out.name
        written = write(small, args.quantize, place, Facts(_described(whole, preprocess), told), batches)
        report = _report(args, whole, small, written, place, sets, size)
        report |= {"steps": [step.__dict__ for step in steps], "cuts": [cut.row() for cut in _told(cuts)]}
        names = [args.out.with_suffix(".report.json").name, args.out.with_suffix(".report.png").name]
        (Path(folder) / names[0]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw([report, *others], Path(folder) / names[1])
        for path in sorted(Path(folder).iterdir(), key=lambda p: p.name == args.out.name):  # the weights last
            flush(path)
            os.replace(path, args.out.parent / path.name)
    print(table(report))
    return 0


def _check(args: argparse.Namespace, methods: list[str]) -> None:
    """CompressError for arguments that do not go together, before anything is read."""
    for option, value in (("--images", args.images), ("--multiple", args.multiple), ("--batch-size", args.batch_size)):
        if value < 1:
            raise CompressError(f"{option} {value}: at least 1")
    if not methods and args.quantize == "none":
        raise CompressError("nothing to do: give --method, --quantize or both")
    calibrated = [method for method in methods if method in CALIBRATED]
    if calibrated and args.calibrate is None:
        raise CompressError(f"--method {calibrated[0]} needs --calibrate: images like those the model will see")
    if (args.train is None) != (args.test is None):
        raise CompressError("--train and --test go together: a linear layer is fitted on one and scored on the other")
    if args.train is not None and args.train == args.test:
        raise CompressError("--test is --train: give images the layer was not fitted to")
    check_format(args.quantize, args.out, args.calibrate is not None)
    check_output_file(args.out, "--out")


def _preprocess(whole: Backbone, args: argparse.Namespace) -> Preprocess:
    try:
        return preprocess_of(whole, size=args.size or "train")
    except ValueError as error:  # a size that the patch does not divide
        raise CompressError(f"--size: {error}") from error


def _pictures(args: argparse.Namespace, preprocess: Preprocess) -> dict[str, Pictures]:
    """By name what ``args`` give: calibrate, train, test."""
    wanted = {"calibrate": args.images, "train": args.labelled_images, "test": args.labelled_images}
    return {
        name: pictures(parse_dataset(text), preprocess, count, f"--{name}", labelled=name != "calibrate")
        for name, count in wanted.items()
        if (text := getattr(args, name)) is not None
    }


def _described(whole: Backbone, preprocess: Preprocess) -> dict[str, Any]:
    """How the compressed model is fed: as the uncompressed one."""
    kept: dict[str, Any] = dict(getattr(whole, "preprocess", {}))
    return kept | {"mean": list(preprocess.mean), "std": list(preprocess.std)}


def _report(
    args: argparse.Namespace,
    whole: Backbone,
    small: Backbone,
    written: Written,
    place: Path,
    sets: dict[str, Pictures],
    size: int,
) -> dict[str, Any]:
    looked_at = sets.get("test") or sets.get("calibrate")
    batches = looked_at.batches(args.batch_size)[:8] if looked_at else images_for(whole)
    reference, timed = partial(tokens_of, whole), batches[0]
    also = [written.float_onnx] if written.float_onnx is not None else []
    before, after, *others = latencies([reference, written.run, *also], timed)
    rows = _cosines(whole, written, batches)
    sides: dict[str, dict[str, Any]] = {
        "before": _side(weights_in(whole), operations(whole, size), _float_bytes(whole), before),
        "after": _side(written.weights, operations(small, size), file_bytes(place), after),
    }
    if "train" in sets:
        probe = Probe(reference, sets["train"], sets["test"], batch=args.batch_size)
        sides["before"]["metrics"], sides["after"]["metrics"] = probe.scores(reference), probe.scores(written.run)
    unread = (f"--{name}: {len(p.left_out)} images cannot be read" for name, p in sets.items() if p.left_out)
    notes = [*written.notes, *unread, *(f"onnxruntime, float32: {other}; in 8 bits: {after}" for other in others)]
    return {
        "format": FORMAT,
        "weights": str(args.weights),
        "out": str(args.out),
        "method": _name(args),
        "quantize": args.quantize,
        "size": size,
        "batch": len(timed),
        "threads": after.threads,
        **sides,
        "cosines": rows,
        "cosines_on": "--test" if "test" in sets else "--calibrate" if "calibrate" in sets else "fixed pictures",
        "shape": backbone_lines(written.blocks or small, size),
        "architecture": describe_backbone(written.blocks or small),
        "notes": notes,
    }


def _name(args: argparse.Namespace) -> str:
    unit = "" if args.of == "parameters" else f" of {args.of}"
    amount = f"{args.budget:g}{unit}" if args.budget is not None else args.amount
    method = "" if args.method == "none" else f"{args.method} {amount}"
    return " ".join(part for part in (method, "" if args.quantize == "none" else args.quantize) if part)


def _side(weights: int, flops: int, size: int, timed: Latency) -> dict[str, Any]:
    return {"weights": weights, "flops": flops, "bytes": size, "milliseconds": timed.milliseconds, "calls": timed.calls}


def _float_bytes(whole: Backbone) -> int:
    """Of the uncompressed weights as a float32 file, without its header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in whole.state_dict().values())


def _cosines(whole: Backbone, written: Written, batches: list[torch.Tensor]) -> list[dict[str, Any]]:
    found: list[tuple[str, Closeness]] = []
    if written.blocks is not None:
        layers = closeness(written.blocks, whole, batches)[:-1]
        found = [(f"block {index}", row) for index, row in enumerate(layers)]
    found.append(("output", closeness_of_output(written.run, whole, batches)))
    return [{"where": where, "mean": row.mean, "least": row.least} for where, row in found]


def _told(cuts: list[Cut]) -> list[Cut]:
    """Without those that changed nothing."""
    return [cut for cut in cuts if cut.after < cut.before and cut.replaced]
