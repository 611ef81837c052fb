"""``dinov3 features`` with both of its layouts: one set of arrays, or tar shards by size as ``dinov3 dit extract`` writes them."""

from __future__ import annotations

import argparse

from dinov3.data.sources import parse_dataset
from dinov3.data.sources.imagefolder import refuse_output_inside
from dinov3.distributed import context
from dinov3.features import command
from dinov3.generate.errors import GenerateError
from dinov3.generate.extract import Job, extract
from dinov3.generate.sizing import Sizing
from dinov3.runs.output import check_results_folder

UNLIMITED = 1e9  # no image is left out: its sides go to their nearest multiples of 16 whatever that does to its shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 features``."""
    command.add_arguments(parser)
    parser.add_argument(
        "--layout",
        choices=("arrays", "webdataset"),
        default="arrays",
        help="webdataset: class token and patches of each image in tars, one folder a size, as `dinov3 dit extract --side native` "
        "writes them; with --pool patches (default arrays: --format)",
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command. Raises GenerateError for options that the layout does not have."""
    if args.layout == "arrays":
        return command.execute(args)
    for wrong, told in (
        (args.pool != "patches", "--pool patches"),
        (args.size != "native", "--size native: each image keeps its own (dinov3 dit extract has fixed sizes)"),
        (args.dtype != "fp16", "--dtype fp16"),
    ):
        if wrong:
            raise GenerateError(f"--layout webdataset needs {told}")
    check_results_folder(args.out, "--out")
    source = parse_dataset(args.data)
    refuse_output_inside(source, args.out)
    job = Job.of(command.extractor_from(args), source, Sizing(None, args.max_side, max_stretch=UNLIMITED))
    manifest = extract(job, args.out, max_bad_frac=args.max_bad_frac)
    if context.is_main():
        there = "computed" if manifest["computed"] else "already there"
        print(f"{manifest['rows']:,} images in {len(manifest['shards'])} shards in {args.out} ({there})")
        for bad in manifest["unreadable"][:5]:
            print(f"  left out: {bad['name']}: {bad['reason']}")
    context.teardown()
    return 0
