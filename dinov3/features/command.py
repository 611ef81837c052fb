"""``dinov3 features``: a data set through a frozen backbone, onto disk."""

from __future__ import annotations

import argparse
from typing import Literal

import torch

from dinov3.data.sources import parse_dataset
from dinov3.data.sources.imagefolder import refuse_output_inside
from dinov3.distributed import context
from dinov3.features.cache import FeatureKind, cached_features
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor, load
from dinov3.features.tokens import POOLS
from dinov3.runs.output import check_results_folder
from dinov3.system.paths import expanded

DESCRIPTION = """\
Features of every image of a data set, in safetensors or npy shards that any language reads. The set lies in OUT/KEY;
KEY depends on the weights, the data, the preprocessing and these options, so the same command finds what is there, goes
on where it was killed, and never returns features of something else.
"""


def add_extractor_arguments(parser: argparse.ArgumentParser, *, size: str) -> None:
    """What decides the features: weights and how they see an image; ``size`` is the default of ``--size``."""
    add_backbone_arguments(parser)
    parser.add_argument(
        "--size",
        type=image_size,
        default=size,
        help="px: 224 (a square), 224x320 (height x width), train (the square the backbone was trained on), "
        f"or native (each image's own); always the whole image (default {size})",
    )
    parser.add_argument(
        "--max-side",
        type=int,
        default=1024,
        help="px: with --size native, larger images are shrunk to it (default 1024)",
    )


def add_backbone_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``extractor_from`` reads, but for ``size`` and ``max_side``."""
    parser.add_argument("--weights", required=True, type=expanded, help="run folder, export, or official weights")
    parser.add_argument(
        "--preset", help="released model the weights are of, when the file cannot tell (see dinov3 models)"
    )
    parser.add_argument(
        "--interpolation",
        choices=("bicubic", "bilinear"),
        default="bicubic",
        help="of the resizing; bilinear as Hugging Face's processor for released weights (default bicubic)",
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--compute-dtype", default="auto", help="fp32, bf16 or fp16 autocast; auto: bf16 where the GPU has it"
    )
    parser.add_argument("--compile", action="store_true", help="compile the backbone first")


def image_size(text: str) -> Literal["native", "train"] | int | tuple[int, int]:
    """``native``, ``train``, ``224`` or ``224x320``; ValueError for anything else."""
    if text == "native":
        return "native"
    if text == "train":
        return "train"
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) not in (1, 2):
        raise ValueError(text)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])  # argparse turns the ValueError into its own line


def numbered_gpu(text: str) -> torch.device:
    """``cuda:N``; FeatureError when there is none."""
    kind, _, number = text.partition(":")
    if kind != "cuda" or not number.isdigit():
        raise FeatureError(f"--device {text}: choose auto, cpu, cuda or cuda:N")
    if int(number) >= (there := torch.cuda.device_count()):
        raise FeatureError(f"--device {text}: torch sees {there} GPUs")
    return torch.device(text)


def extractor_from(args: argparse.Namespace) -> FeatureExtractor:
    """The extractor that ``add_extractor_arguments`` describe."""
    device = context.setup(args.device) if args.device in ("auto", "cpu", "cuda") else numbered_gpu(args.device)
    try:
        return load(
            args.weights,
            size=args.size,
            max_side=args.max_side,
            interpolation=args.interpolation,
            preset=args.preset,
            device=device,
            dtype=args.compute_dtype,
            batch_size=args.batch_size,
            compile=args.compile,
        )
    except ValueError as error:  # a size that the patch does not divide
        raise FeatureError(str(error)) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 features``."""
    parser.description = DESCRIPTION
    add_extractor_arguments(parser, size="native")
    parser.add_argument("--data", required=True, help="folder, or a data set as in train.dataset_path")
    parser.add_argument("--out", required=True, type=expanded, help="folder of feature sets")
    parser.add_argument("--pool", default="cls", choices=POOLS, help="one vector an image, or all patch tokens")
    parser.add_argument("--dtype", default="fp16", choices=("fp16", "bf16", "fp32"), help="number format of the files")
    parser.add_argument("--format", default="safetensors", choices=("safetensors", "npy"))
    parser.add_argument(
        "--max-bad-frac", type=float, default=0.01, help="share of unreadable images that ends the command"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    check_results_folder(args.out, "--out")
    source = parse_dataset(args.data)
    refuse_output_inside(source, args.out)
    kind = FeatureKind(pool=args.pool, dtype=args.dtype, format=args.format)
    extractor = extractor_from(args)
    found = cached_features(extractor, source, args.out, kind, max_bad_frac=args.max_bad_frac)
    if context.is_main():
        skipped = found.manifest["skipped"]
        print(f"{len(found):,} images in {found.folder} ({'computed' if found.fresh else 'already there'})")
        for bad in skipped[:5]:
            print(f"  left out: {bad['name']}: {bad['reason']}")
        if len(skipped) > 5:
            print(f"  … and {len(skipped) - 5} more, listed in manifest.json")
    context.teardown()
    return 0
