"""``dinov3 data check``: what is in a dataset, before days of training depend on it."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from dinov3.config.load import load_config
from dinov3.config.output import check_output_folder
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.data.errors import DataError, TooManyBadSamples
from dinov3.data.sources import Source, open_dataset
from dinov3.system.errors import EXIT_DONE
from dinov3.system.paths import expanded

REPORT, SHEET = "report.json", "crops.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action ``check`` of ``dinov3 data`` and its arguments."""
    parser = parser.add_subparsers(required=True, metavar="action").add_parser(
        "check", help="counts, sizes, unreadable files, duplicates, channel statistics, a picture of the crops"
    )
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
    """Examine, print, write. Raises ConfigError and DataError (78), LoaderError, TooManyBadSamples and OSError (74)."""
    from dinov3.survey.report import report_of
    from dinov3.survey.survey import survey

    for name, least in (("limit", 1), ("workers", 0), ("seed", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise DataError(f"--{name} {value}: must be at least {least}")
    if args.dataset.startswith("["):  # a list is YAML, as on the command line of training
        cfg = load_config(args.config_file, [*args.opts, f"train.dataset_path={args.dataset}"])
    else:
        cfg = load_config(args.config_file, args.opts)
        cfg = replace(cfg, train=replace(cfg.train, dataset_path=args.dataset))
    source = open_dataset(cfg.train.dataset_path)
    if len(source) == 0:
        raise DataError(f"{args.dataset}: contains no images")
    if args.out is not None:
        check_output_folder(args.out, "--out")
        args.out.mkdir(parents=True, exist_ok=True)
    workers = cores() if args.workers is None else args.workers
    found = survey(source, limit=args.limit, seed=args.seed, workers=workers)
    report = report_of(args.dataset, source, found, cfg)
    print("\n".join(report.lines()))
    if args.out is not None:
        write_whole(args.out / REPORT, json.dumps(asdict(report), indent=1) + "\n")
        print(f"  written      {args.out / REPORT}, {draw(cfg, source, args.out / SHEET)}")
    limit = cfg.data.max_bad_frac
    if args.strict and report.unreadable_share > limit:
        raise TooManyBadSamples(
            f"{args.dataset}: {report.unreadable_share:.2%} of the images are unreadable, data.max_bad_frac is {limit:g}: "
            "mend the data or raise it"
        )
    return EXIT_DONE


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half written."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(text)
    os.replace(fresh, path)


def draw(cfg: Config, source: Source, path: Path) -> str:
    """Draw the contact sheet: where it is, or why there is none."""
    from dinov3.survey.contact_sheet import contact_sheet

    try:
        contact_sheet(cfg, source, path)
    except (DataError, TooManyBadSamples) as error:
        return f"no picture of the crops: {error}"
    return str(path)
