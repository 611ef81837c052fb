"""``dinov3 dit``: features for a diffusion transformer that sees an image's layout."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from dinov3.data.sources import parse_dataset
from dinov3.data.sources.imagefolder import refuse_output_inside
from dinov3.distributed import context
from dinov3.features.command import add_backbone_arguments, extractor_from
from dinov3.generate import demo
from dinov3.generate.buckets import SIDE
from dinov3.generate.errors import GenerateError
from dinov3.generate.extract import SHARD_MB, Job, extract
from dinov3.generate.inputs.open import LATENTS, TEXTS, Inputs, LatentInput, TextInput
from dinov3.generate.plan import Form, Plan
from dinov3.generate.resolution import PICTURE, resolution_shift, write_shift
from dinov3.generate.sampling import command as sampling
from dinov3.generate.sizing import POOLS, Sizing
from dinov3.generate.training import command as training
from dinov3.generate.validation import report
from dinov3.generate.verify import verify
from dinov3.runs.output import check_results_folder
from dinov3.system.paths import expanded

EXTRACT = """\
Class token and patch features of every image, whole and nearly in its own shape: it is resized to the nearest of seven
sizes (or with --side native to its own), never cropped. The shards are tars that WebDataset reads, one folder a size, with
the same bytes whenever they are written. A killed command goes on when it is called again.
"""
VERIFY = (
    "Reads every sample of a folder of shards: one backbone, one preprocessing, patches of the whole grid, nothing cut."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 dit``."""
    tasks = parser.add_subparsers(required=True, dest="task", metavar="task")
    taking = tasks.add_parser("extract", help="features of a data set, in tar shards by size", description=EXTRACT)
    add_backbone_arguments(taking)
    taking.add_argument("--data", required=True, help="folder, or a data set as in train.dataset_path")
    taking.add_argument("--out", required=True, type=expanded, help="folder of the shards")
    taking.add_argument(
        "--side",
        type=_side,
        default=SIDE,
        help=f"px: seven sizes of about SIDE x SIDE, or native: each image's own, to the nearest multiple of 16 (default {SIDE})",
    )
    taking.add_argument(
        "--max-side",
        dest="longest",
        type=int,
        default=Sizing.max_side,
        help=f"px: with --side native, larger images are shrunk to it (default {Sizing.max_side})",
    )
    taking.add_argument(
        "--max-stretch",
        type=float,
        default=Sizing.max_stretch,
        help=f"images that would be stretched more are left out and counted (default {Sizing.max_stretch:g})",
    )
    taking.add_argument(
        "--pool", type=int, choices=POOLS, default=1, help="2: means over 2 x 2 patches, a quarter of the bytes"
    )
    taking.add_argument(
        "--shard-mb", type=int, default=SHARD_MB, help=f"10^6 bytes of a shard, at most (default {SHARD_MB})"
    )
    taking.add_argument(
        "--max-bad-frac", type=float, default=0.01, help="share of unreadable images that ends the command"
    )
    taking.add_argument("--text", help=f"also store the text of each image: {TEXTS}")
    taking.add_argument("--captions", type=expanded, help='JSONL of {"image": NAME, "caption": TEXT}')
    taking.add_argument("--latents", help=f"also store the latent of each image: {LATENTS}")
    taking.add_argument(
        "--resolution-shift",
        type=int,
        default=0,
        metavar="IMAGES",
        help="also compare the tokens of so many images at every size: resolution.json and resolution.png",
    )
    taking.add_argument("--dry-run", action="store_true", help="only say what would be written")
    taking.set_defaults(run=execute_extract, size="native", max_side=None)
    checking = tasks.add_parser("verify", help="is a folder of shards one set, whole and aligned?", description=VERIFY)
    checking.add_argument("folder", type=expanded)
    checking.set_defaults(run=execute_verify)
    training.add_arguments(tasks.add_parser("train", help="a diffusion transformer on shards, from a YAML"))
    sampling.add_arguments(tasks.add_parser("sample", help="images from an image, a text, both, or two images mixed"))
    report.add_arguments(
        tasks.add_parser("report", help="figures and pictures of a run, judged by limits, on one page")
    )
    showing = tasks.add_parser("demo", help="the whole way on made pictures, in minutes")
    demo.add_arguments(showing)
    showing.set_defaults(run=lambda args: demo.demonstrate(args.out, args.weights, call))


def _side(text: str) -> int | None:
    return None if text == "native" else int(text)


def call(words: Sequence[str]) -> int:
    """One command of ``dinov3 dit``, as a user calls it. Raises its errors."""
    parser = argparse.ArgumentParser(prog="dinov3 dit")
    add_arguments(parser)
    return execute(parser.parse_args(words))


def execute(args: argparse.Namespace) -> int:
    """Run the task that was chosen."""
    code: int = args.run(args)
    return code


def execute_extract(args: argparse.Namespace) -> int:
    """``dinov3 dit extract``."""
    check_results_folder(args.out, "--out")
    sizing = Sizing(args.side, args.longest, args.pool, args.max_stretch)
    source = parse_dataset(args.data)
    refuse_output_inside(source, args.out)
    if args.text is None and args.captions is not None:
        raise GenerateError("--captions without --text: say what makes tokens of them, --text hash or t5:FOLDER")
    text = None if args.text is None else TextInput.open(args.text, args.captions)
    inputs = Inputs(text, None if args.latents is None else LatentInput.open(args.latents))
    job = Job.of(extractor_from(args), source, sizing, args.shard_mb * 10**6, inputs)
    if args.dry_run:
        if context.is_main():
            _say_plan(job.plan(), job.form)
    else:
        manifest = extract(job, args.out, max_bad_frac=args.max_bad_frac)
        if context.is_main():
            there = "computed" if manifest["computed"] else "already there"
            print(f"{manifest['rows']:,} images in {len(manifest['shards'])} shards in {args.out} ({there})")
            for bucket, rows in manifest["buckets"].items():
                print(f"  {bucket}: {rows:,}")
            print(f"  largest stretch {manifest['stretch']:.3f}")
            if args.resolution_shift > 0:
                _say_shift(job, args.out, args.resolution_shift)
            for name in ("unreadable", "too_long", "incomplete"):
                if manifest[name]:
                    print(f"  left out, {name.replace('_', ' ')}: {len(manifest[name]):,}, for example")
                for bad in manifest[name][:3]:
                    print(f"    {bad['name']}: {bad['reason']}")
    context.teardown()
    return 0


def _say_shift(job: Job, out: Path, images: int) -> None:
    shifts = resolution_shift(job, images)
    write_shift(out, shifts, images)
    print(f"  the same images at every size, cosine with {shifts[0].bucket}: {out / PICTURE}")
    for shift in shifts[1:]:
        print(f"    {shift.bucket}: patches {shift.patch_cosine:.3f}, class token {shift.cls_cosine:.3f}")


def _say_plan(plan: Plan, form: Form) -> None:
    for bucket in sorted({shard.bucket for shard in plan.shards}):
        shards = [len(shard.indices) for shard in plan.shards if shard.bucket == bucket]
        rows, cols = form.grid(bucket)
        size = sum(shards) * 2 * sum(math.prod(shape) for shape in form.arrays(bucket).values())
        print(
            f"{bucket} (grid {rows} x {cols}): {sum(shards):,} images in {len(shards):,} shards, {size / 1e6:,.1f} MB"
        )
    print(
        f"left out: {len(plan.unreadable)} unreadable, {len(plan.too_long)} too long, {len(plan.incomplete)} incomplete; nothing was written"
    )


def execute_verify(args: argparse.Namespace) -> int:
    """``dinov3 dit verify``."""
    contents = verify(args.folder)
    form = contents.form
    print(
        f"{args.folder}: {contents.rows:,} images in {len(contents.shards)} shards, width {form.width}, all as written"
    )
    return 0
