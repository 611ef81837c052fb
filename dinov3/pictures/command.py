"""``dinov3 viz pca|sim|attn|curves``: pictures of what a backbone sees, and of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.data.errors import BadImage
from dinov3.data.sources import Source, parse_dataset
from dinov3.data.sources.imagefolder import refuse_output_inside
from dinov3.features.command import add_extractor_arguments, extractor_from
from dinov3.features.errors import FeatureError, refuse_no_folder
from dinov3.features.extract import FeatureExtractor
from dinov3.features.source_images import SourceImages
from dinov3.pictures.attention import attention_maps, similarity_map
from dinov3.pictures.curves import curves
from dinov3.pictures.pca import token_colours
from dinov3.pictures.token_sheet import token_sheet, unnormalised
from dinov3.runs.output import check_output_file
from dinov3.system.paths import expanded
from dinov3.system.rows import read_rows

KINDS = {
    "pca": "principal components of patch features as colours, one projection for all images",
    "sim": "similarity of every patch to the one under --point",
    "attn": "attention of the class token in --layer: the mean over heads, then head by head",
    "curves": "losses, schedules, health and evaluations of a run",
}
MOST_HEADS = 6
CROSS = (0.2, 1.0, 0.3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 viz``."""
    parser.description = "Pictures: " + "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    parser.add_argument("kind", choices=KINDS)
    add_extractor_arguments(parser, size="448")
    parser.add_argument("--data", help="pca, sim, attn: an image, a folder, or a data set as in train.dataset_path")
    parser.add_argument("--out", type=expanded, required=True, help="PNG to write")
    parser.add_argument("--images", type=int, default=6, help="images shown, evenly spread over the data (default 6)")
    parser.add_argument(
        "--point", type=point, default=(0.5, 0.5), help="sim: down,right as shares, 0.5,0.5 is the centre"
    )
    parser.add_argument("--layer", type=int, default=-1, help="attn: index of the block (default: the last)")


def point(text: str) -> tuple[float, float]:
    """``0.5,0.5``; ValueError for anything else."""
    down, right = (float(part) for part in text.split(","))
    if not (0 <= down <= 1 and 0 <= right <= 1):
        raise ValueError(text)
    return down, right


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.images < 1:
        raise FeatureError(f"--images {args.images}: at least 1")
    if args.out.suffix.lower() != ".png":
        raise FeatureError(f"--out {args.out}: give a file name that ends in .png")
    check_output_file(args.out, "--out")
    if args.kind == "curves":
        rows = read_rows(args.weights / "metrics.jsonl")
        if not rows:
            refuse_no_folder(args.weights)
            raise FeatureError(f"{args.weights}: no metrics.jsonl with a line in it: give --weights a run folder")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        curves(rows, args.out, read_rows(args.weights / "evaluation.jsonl"))
        print(args.out)
        return 0
    if args.data is None:
        raise FeatureError(f"viz {args.kind} needs --data: an image, a folder or a data set")
    names, images, extractor = load_images(args)
    try:
        columns = COLUMNS[args.kind](extractor, images, args)
    except ValueError as error:
        raise FeatureError(str(error)) from error
    mean, std = extractor.preprocess.mean, extractor.preprocess.std
    title = f"{args.kind}, {args.weights}, {images.shape[-2]}x{images.shape[-1]} px"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    token_sheet({"image": unnormalised(images, mean, std), **columns}, names, title, args.out)
    print(args.out)
    return 0


def load_images(args: argparse.Namespace) -> tuple[list[str], Tensor, FeatureExtractor]:
    """Names and prepared images ``[N, 3, H, W]`` of one size, and the extractor."""
    single = expanded(args.data)
    source: Source | None = None if single.is_file() and single.suffix.lower() in PICTURES else parse_dataset(args.data)
    if source is not None:
        refuse_output_inside(source, args.out)
    extractor = extractor_from(args)
    if len(extractor.preprocess.mean) != 3:
        raise FeatureError("pictures are made of RGB images; this backbone takes other channels")
    if source is None:
        try:
            return [single.stem], extractor.preprocess(single)[None], extractor
        except BadImage as error:
            raise FeatureError(str(error)) from error  # it names the file
    chosen = np.linspace(0, len(source) - 1, min(args.images, len(source))).astype(int).tolist()
    several = SourceImages(extractor, source, chosen)
    images = list(several)
    for bad in several.skipped:
        print(f"left out: {bad.name}: {bad.reason}")
    if not images:
        raise FeatureError(f"{args.data}: none of the chosen images can be read: {several.skipped[0].reason}")
    if len({image.shape for image in images}) > 1:
        raise FeatureError("with --size native give one image at a time: these have several sizes")
    return [Path(source.name(i)).stem for i in several.kept], torch.stack(images), extractor


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
Columns = Mapping[str, Tensor]


def pca(extractor: FeatureExtractor, images: Tensor, args: argparse.Namespace) -> Columns:
    """Colours ``[N, 3, rows, cols]``."""
    tokens = extractor.extract(images, normalised=True)
    return {"patch features": token_colours(tokens.patches, tokens.grid)}


def sim(extractor: FeatureExtractor, images: Tensor, args: argparse.Namespace) -> Columns:
    """The images and their heat maps, both with a cross at the point."""
    tokens = extractor.extract(images, normalised=True)
    maps = torch.stack([similarity_map(patches, tokens.grid, args.point) for patches in tokens.patches])
    shown = F.interpolate(heat(maps.clamp_min(0)), images.shape[-2:])  # nearest: patches stay squares
    mean, std = extractor.preprocess.mean, extractor.preprocess.std
    pictures = marked(unnormalised(images, mean, std), args.point)
    return {"image": pictures, f"similarity to {args.point[0]:g},{args.point[1]:g}": marked(shown, args.point)}


def marked(tiles: Tensor, at: tuple[float, float]) -> Tensor:
    """``tiles [N, 3, H, W]`` with a cross at ``at`` (down, right, as shares): green in black, which no heat map has."""
    tiles = tiles.clone()
    height, width = tiles.shape[-2:]
    row, col = min(int(at[0] * height), height - 1), min(int(at[1] * width), width - 1)
    arm, half = max(2, min(height, width) // 16), min(height, width) // 150
    for edge, colour in ((1, (0.0, 0.0, 0.0)), (0, CROSS)):
        for down, right in ((arm + edge, half + edge), (half + edge, arm + edge)):
            rows, cols = slice(max(row - down, 0), row + down + 1), slice(max(col - right, 0), col + right + 1)
            tiles[:, :, rows, cols] = tiles.new_tensor(colour).reshape(1, 3, 1, 1)
    return tiles


def attn(extractor: FeatureExtractor, images: Tensor, args: argparse.Namespace) -> Columns:
    """The mean over heads, then up to six heads, each map scaled by its largest value."""
    maps = attention_maps(extractor.backbone, images.to(extractor.device), args.layer).cpu()  # [N, heads, rows, cols]
    scaled = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12)
    mean = maps.mean(1)
    columns = {"mean of heads": heat(mean / mean.amax((1, 2), keepdim=True).clamp_min(1e-12))}
    return columns | {f"head {i}": heat(scaled[:, i]) for i in range(min(MOST_HEADS, maps.shape[1]))}


COLUMNS: dict[str, Callable[[FeatureExtractor, Tensor, argparse.Namespace], Columns]] = {
    "pca": pca,
    "sim": sim,
    "attn": attn,
}


def heat(maps: Tensor) -> Tensor:
    """Values ``[N, rows, cols]`` in [0, 1] as colours ``[N, 3, rows, cols]``."""
    colours = matplotlib.colormaps["magma"](maps.numpy())[..., :3]
    return torch.from_numpy(np.ascontiguousarray(colours)).float().permute(0, 3, 1, 2)
