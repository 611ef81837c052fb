"""``dinov3 data synth-dense``: the synthetic landscapes and films as files, with masks and depth, to try evaluations on.

``OUT/images``, ``OUT/masks`` (8-bit class numbers), ``OUT/depth`` (16 bit, 1000 a unit; 0: the sky, which has none),
each with ``training`` and ``validation``; ``OUT/films/frames/NAME`` and ``OUT/films/masks/NAME``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from dinov3.data.errors import DataError
from dinov3.data.sources.synthetic import Synthetic
from dinov3.data.sources.synthetic_video import SyntheticVideo
from dinov3.data.sources.world import SKY
from dinov3.runs.output import check_results_folder
from dinov3.system.paths import expanded

DEPTH_UNITS = 1000.0  # of the PNGs, a unit of depth
HOLD_OUT = 5  # every fifth picture is for validation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 data synth-dense``."""
    parser.description = "Write synthetic images with masks and depth, and films with masks, for `dinov3 eval`."
    parser.add_argument("--out", required=True, type=expanded, help="folder to write, which must not exist or be empty")
    parser.add_argument("--n", type=int, default=200, help="images (default 200)")
    parser.add_argument("--films", type=int, default=2, help="films (default 2)")
    parser.add_argument("--length", type=int, default=60, help="frames a film (default 60)")
    parser.add_argument("--size", type=int, default=96, help="px a side (default 96)")
    parser.add_argument("--seed", type=int, default=0)


def execute(args: argparse.Namespace) -> int:
    """Write everything. DataError for numbers without a meaning, or a folder that holds something."""
    for name, least in (("n", HOLD_OUT), ("films", 0), ("length", 2), ("size", 32), ("seed", 0)):
        if getattr(args, name) < least:
            raise DataError(f"--{name} {getattr(args, name)}: at least {least}")
    check_results_folder(args.out, "--out")
    if args.out.exists() and any(args.out.iterdir()):
        raise DataError(f"--out {args.out}: holds files already: give another folder")
    write_images(args.out, Synthetic(n=args.n, size=args.size, seed=args.seed))
    for index in range(args.films):
        write_film(args.out / "films", SyntheticVideo(args.films, args.length, args.size, args.seed), index)
    print(f"{args.n} images and {args.films} films of {args.length} frames in {args.out}")
    return 0


def write_images(out: Path, source: Synthetic) -> None:
    """Images, masks and depth of every picture of ``source``."""
    for index in range(len(source)):
        scene, part = source.scene(index), "validation" if index % HOLD_OUT == HOLD_OUT - 1 else "training"
        depth = np.where(scene.segmentation == SKY, 0, scene.depth * DEPTH_UNITS)
        if depth.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{source.name(index)}: a depth of {depth.max() / DEPTH_UNITS:g} does not fit 16 bit")
        for folder, pixels in (
            ("images", scene.image),
            ("masks", scene.segmentation),
            ("depth", depth.round().astype(np.uint16)),
        ):
            _save(pixels, out / folder / part / f"{index:05d}.png")


def write_film(out: Path, films: SyntheticVideo, index: int) -> None:
    """Frames and masks of one film."""
    for number, (pixels, mask) in enumerate(films.frames(index)):
        _save(pixels, out / "frames" / f"film{index}" / f"{number:05d}.png")
        _save(mask, out / "masks" / f"film{index}" / f"{number:05d}.png")


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
