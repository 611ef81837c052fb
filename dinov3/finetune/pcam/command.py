"""``dinov3 pcam download|verify|synth``: the files of PatchCamelyon, or made ones in the same format."""

from __future__ import annotations

import argparse

from dinov3.data.sources.pcam import SPLITS
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.pcam.files import CENTRE, MIRRORS, SIDE, download, names, read_sums, synthesise, verify
from dinov3.runs.output import check_results_folder
from dinov3.system.paths import expanded

ACTIONS = {
    "download": "fetch the six files (7.7 GB unpacked), going on where it ended",
    "verify": "open every pair, count, compare sums",
    "synth": "write a small made set under the official names",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 pcam``."""
    parser.description = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--out", type=expanded, required=True, help="folder of the files")
    parser.add_argument("--mirror", action="append", help="download: address with {name}, tried first; may be repeated")
    parser.add_argument(
        "--sums",
        type=expanded,
        help="file of `sha256  name` lines to compare with, as sha256sum and `verify` write them",
    )
    parser.add_argument("--dry-run", action="store_true", help="download: say what would be fetched")
    parser.add_argument("--n", type=int, default=2000, help="synth: training images; a quarter for each other split")
    parser.add_argument("--size", type=int, default=SIDE, help=f"synth: px a side (default {SIDE})")
    parser.add_argument("--classes", type=int, default=2, help="synth: number of classes (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="synth")


def execute(args: argparse.Namespace) -> int:
    """Run the command. FinetuneError or DataError for what cannot be done."""
    sums = read_sums(args.sums)
    if args.action == "verify":
        found = verify(args.out, sums)
        for one in found:
            print(one.line())
        for one in found:
            for name, digest in one.digests.items():
                print(f"{digest}  {name}")
        return 0
    check_results_folder(args.out, "--out")
    if args.action == "download":
        for mirror in args.mirror or ():
            if "{name}" not in mirror or not mirror.startswith(("https://", "http://", "file://")):
                raise FinetuneError(f"--mirror {mirror}: an address of http(s) or file with {{name}} is needed")
        for line in download(args.out, (*(args.mirror or ()), *MIRRORS), sums, dry_run=args.dry_run):
            print(line)
        return 0
    for option, least in (("n", 8), ("size", CENTRE // 2), ("classes", 2), ("seed", 0)):
        if getattr(args, option) < least:
            raise FinetuneError(f"--{option} {getattr(args, option)}: at least {least}")
    if there := [name for _, _, name in names() if (args.out / name).exists()]:
        raise FinetuneError(f"--out {args.out}: has {there[0]} already: give another folder")
    counts = {split: args.n if split == "train" else max(2, args.n // 4) for split in SPLITS}
    synthesise(args.out, counts, size=args.size, seed=args.seed, classes=args.classes)
    print(f"{args.out}: " + ", ".join(f"{split} {n:,}" for split, n in counts.items()) + f" images of {args.size} px")
    return 0
