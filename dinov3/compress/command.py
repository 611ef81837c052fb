"""``dinov3 compress``: a smaller backbone, checked, measured as it lies in its file, with a report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dinov3.compress.costs import UNITS
from dinov3.compress.errors import CompressError
from dinov3.compress.labelled import Judge, OwnHead, Pictures, Probe, pictures, with_numbers_of
from dinov3.compress.making import LOOKED_AT, Bench, make
from dinov3.compress.methods import METHODS
from dinov3.compress.report import compared, draw, read_report, table
from dinov3.compress.surgery import blocks_of
from dinov3.compress.variants import Variant, variants_of
from dinov3.compress.written import NUMBER_FORMATS
from dinov3.data.sources import parse_dataset
from dinov3.data.storage.labels import names_in
from dinov3.features.extract import preprocess_of
from dinov3.features.preprocess import Preprocess
from dinov3.finetune.classifier_file import is_classifier, load_classifier
from dinov3.finetune.evaluate import open_for, views_of
from dinov3.models.backbone import Backbone
from dinov3.runs.output import check_not_input, check_output_file, check_results_folder
from dinov3.system.bars import Bar
from dinov3.system.files import replacing, write_json
from dinov3.system.paths import expanded
from dinov3.weights.own import load_backbone
from dinov3.weights.parity import tokens_of

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
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="WHAT",
        help="several files of one backbone, with one table and picture: methods (heads,mlp or heads=0.5,mlp=0.9), number "
        "formats (bf16) or both (whitened+int8); --out is then a folder",
    )
    parser.add_argument(
        "--test", help="labelled images: scored before and after by the classifier's own head, if the weights have one"
    )
    parser.add_argument(
        "--train", help="labelled images: a linear layer is fitted to their uncompressed features, for --test"
    )
    parser.add_argument("--labelled-images", type=int, default=2000, help="most that are read of each (default 2000)")
    parser.add_argument(
        "--beside", type=expanded, nargs="+", default=[], help="reports of other runs, drawn beside this one"
    )
    parser.add_argument(
        "--out",
        type=expanded,
        required=True,
        help="NAME.safetensors or NAME.onnx (NAME.report.json and .png beside it); with --compare a folder",
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    variants = variants_of(args)
    _check(args, variants)
    others = [read_report(path) for path in args.beside]
    bench = _bench(args)
    if args.compare is None:
        print(table(make(variants[0], bench, others)))
        return 0
    reports, left_out = [], []
    with Bar(len(variants), about="compress", unit="files") as bar:
        for variant in variants:
            try:
                reports.append(make(variant, bench, None))  # all in one picture, below
            except CompressError as error:  # of this one: the others can be compared all the same
                left_out.append(f"{variant.name}: left out: {error}")
            bar.update()
    if not reports:
        raise CompressError(f"--compare: nothing could be made; the first, {left_out[0]}")
    with replacing(args.out / "compared.png") as fresh:
        draw([*reports, *others], fresh)
    write_json(args.out / "compared.json", {"reports": [report["out"] for report in reports], "left_out": left_out})
    print(compared(reports, left_out))
    return 0


def _check(args: argparse.Namespace, variants: Sequence[Variant]) -> None:
    """CompressError for arguments that do not go together, before anything is read."""
    for option, value in (
        ("--images", args.images),
        ("--multiple", args.multiple),
        ("--batch-size", args.batch_size),
        ("--labelled-images", args.labelled_images),
        ("--size", args.size),
    ):
        if value is not None and value < 1:
            raise CompressError(f"{option} {value}: at least 1")
    if args.calibrate is not None and args.batch_size == 1:
        raise CompressError("--batch-size 1: one image has no spread, which --calibrate measures: give 2 or more")
    if args.train is not None and args.test is None:
        raise CompressError("--train needs --test: a linear layer is fitted on one and scored on the other")
    if args.test is not None and args.train is None and not is_classifier(args.weights):
        raise CompressError("--test needs --train, as the weights have no head: a linear layer is fitted to --train")
    if args.train is not None and args.train == args.test:
        raise CompressError("--test is --train: give images the layer was not fitted to")
    (check_output_file if args.compare is None else check_results_folder)(args.out, "--out")
    for variant in variants:
        check_not_input(variant.out, "--out", args.weights)


def _bench(args: argparse.Namespace) -> Bench:
    """Everything is read here."""
    whole = load_backbone(args.weights, preset=args.preset)
    blocks_of(whole)
    preprocess = _preprocess(whole, args)
    sets = _pictures(args, preprocess)
    assert isinstance(preprocess.size, int)
    judge = _judge(args, whole, sets)
    if isinstance(judge, OwnHead):
        sets["test"] = judge.pictures(LOOKED_AT * args.batch_size)
    notes = [f"--{name}: {len(one.left_out)} images cannot be read" for name, one in sets.items() if one.left_out]
    shape = (args.batch_size, args.multiple, not args.no_refit)
    return Bench(args.weights, whole, preprocess, preprocess.size, *shape, sets, judge, notes)


def _preprocess(whole: Backbone, args: argparse.Namespace) -> Preprocess:
    try:
        return preprocess_of(whole, size="train" if args.size is None else args.size)
    except ValueError as error:  # a size that the patch does not divide
        raise CompressError(f"--size: {error}") from error


def _pictures(args: argparse.Namespace, preprocess: Preprocess) -> dict[str, Pictures]:
    """By name what ``args`` give: calibrate, train, test."""
    wanted = {"calibrate": args.images}
    if args.train is not None:
        wanted |= {"train": args.labelled_images, "test": args.labelled_images}
    sources = {name: parse_dataset(text) for name in wanted if (text := getattr(args, name)) is not None}
    sets = {
        name: pictures(source, preprocess, wanted[name], f"--{name}", labelled=name != "calibrate")
        for name, source in sources.items()
    }
    if "calibrate" in sets and len(sets["calibrate"].images) == 1:
        raise CompressError("--calibrate: one image says nothing of how much tokens differ: give two or more")
    if "train" in sets:
        sets["test"] = with_numbers_of(sets["test"], names_in(sources["test"]), names_in(sources["train"]))
    return sets


def _judge(args: argparse.Namespace, whole: Backbone, sets: dict[str, Pictures]) -> Judge | None:
    if args.train is not None:
        return Probe(lambda images: tokens_of(whole, images), sets["train"], sets["test"], batch=args.batch_size)
    if args.test is None:
        return None
    classifier, about = load_classifier(args.weights)
    views, labelled = views_of(classifier, about), open_for(about, args.test)
    return OwnHead(classifier, views, labelled, args.labelled_images, batch=args.batch_size)
