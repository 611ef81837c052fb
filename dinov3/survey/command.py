"""``dinov3 data check|synth-dense``: what is in a dataset, before days of training depend on it."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.data.decode import Reading
from dinov3.data.errors import DataError, TooManyBadSamples
from dinov3.data.sources import Source, open_dataset
from dinov3.data.sources.imagefolder import refuse_output_inside
from dinov3.runs.output import check_results_folder
from dinov3.survey import synth_dense
from dinov3.system.cores import cores
from dinov3.system.errors import EXIT_DONE
from dinov3.system.files import write_json
from dinov3.system.paths import expanded

REPORT, SHEET = "report.json", "crops.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of ``dinov3 data`` and their arguments."""
    actions = parser.add_subparsers(required=True, metavar="action")
    synthetic = actions.add_parser("synth-dense", help="synthetic images with masks and depth, films with masks")
    synth_dense.add_arguments(synthetic)
    synthetic.set_defaults(run=synth_dense.execute)
    parser = actions.add_parser(
        "check", help="counts, sizes, unreadable files, duplicates, channel statistics, a picture of the crops"
    )
    parser.set_defaults(run=examine)
    parser.add_argument("dataset", metavar="PATH", help="folder, tar shards, or any text for train.dataset_path")
    parser.add_argument("--config-file", type=config_file, help="YAML of the run that is planned: its crops are shown")
    parser.add_argument("--out", type=expanded, help=f"folder for {REPORT} (everything) and {SHEET} (the first batch)")
    parser.add_argument("--limit", type=int, help="look at so many images only, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of --limit (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core; 0: in this one)")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 74 when more than data.max_bad_frac are unreadable"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, e.g. crops.global_crops_size=256")


def execute(args: argparse.Namespace) -> int:
    """Run the action that was chosen."""
    code: int = args.run(args)
    return code


def examine(args: argparse.Namespace) -> int:
    """Examine, print, write. Raises ConfigError and DataError (78), LoaderError, TooManyBadSamples and OSError (74)."""
    for name, least in (("limit", 1), ("workers", 0), ("seed", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise DataError(f"--{name} {value}: must be at least {least}")
    if args.dataset.startswith("["):  # a list is YAML, as on the command line of training
        cfg = load_config(args.config_file, [*args.opts, f"train.dataset_path={args.dataset}"])
    else:
        cfg = load_config(args.config_file, args.opts)
        cfg = replace(cfg, train=replace(cfg.train, dataset_path=args.dataset))
    source = open_dataset(cfg.train.dataset_path)  # before torch is imported: what is missing is said at once
    from dinov3.survey.report import report_of
    from dinov3.survey.survey import survey

    if len(source) == 0:
        raise DataError(f"{args.dataset}: contains no images")
    if args.out is not None:
        check_results_folder(args.out, "--out")
        refuse_output_inside(source, args.out)
        args.out.mkdir(parents=True, exist_ok=True)
    workers = cores() if args.workers is None else args.workers
    found = survey(source, limit=args.limit, seed=args.seed, workers=workers, reading=Reading.from_config(cfg))
    report = report_of(args.dataset, source, found, cfg)
    if args.out is not None:  # before it is printed: a console may refuse characters, or be gone
        write_json(args.out / REPORT, asdict(report))
    print("\n".join(report.lines()))
    if args.out is not None:
        print(f"  written      {args.out / REPORT}, {draw(cfg, source, args.out / SHEET)}")
    limit = cfg.data.max_bad_frac
    if args.strict and report.unreadable_share > limit:
        raise TooManyBadSamples(
            f"{args.dataset}: {report.unreadable_share:.2%} of the images are unreadable, data.max_bad_frac is {limit:g}: "
            "mend the data or raise it"
        )
    return EXIT_DONE


def draw(cfg: Config, source: Source, path: Path) -> str:
    """Draw the contact sheet: where it is, or why there is none."""
    from dinov3.survey.contact_sheet import contact_sheet

    try:
        contact_sheet(cfg, source, path)
    except (DataError, TooManyBadSamples) as error:
        return f"no picture of the crops: {error}"
    return str(path)
