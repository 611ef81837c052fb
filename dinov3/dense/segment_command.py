"""``dinov3 eval seg``: how well does a linear head on frozen patch features name every pixel?"""

from __future__ import annotations

import argparse

from dinov3.dense.palette import coloured, mistakes, of_pixels, sheet
from dinov3.dense.protocols import SEGMENT, SegmentProtocol, chosen
from dinov3.dense.report import LeftOut, add_common_arguments, cache_of, check_places, finish
from dinov3.dense.segment import Segmentation, check, evaluate
from dinov3.dense.sets import open_parts
from dinov3.distributed import context
from dinov3.features.command import extractor_from
from dinov3.features.errors import FeatureError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval seg``."""
    parser.description = (
        "Mean IoU of a linear head, and of dense k-NN, on frozen patch features. small: whole images, a few seconds on a "
        "CPU; ade20k_linear: DINOv3's 40,000 iterations on random crops, sliding windows in the test."
    )
    add_common_arguments(
        parser, SEGMENT, "folder with images/ and masks/ (PNG of class numbers), or Synthetic:n=200:size=96"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    protocol = chosen(SEGMENT, args.protocol, args.opts)
    check(protocol)
    check_places(args)
    train, test = open_parts(args.data, "mask")
    extractor = extractor_from(args)
    left_out = LeftOut()
    try:
        found = evaluate(extractor, train, test, protocol, cache_of(args), left_out, max_bad_frac=args.max_bad_frac)
    except (ValueError, FloatingPointError) as error:
        raise FeatureError(str(error)) from error
    facts = {
        "images": found.images,
        "classes": found.classes,
    }
    finish(args, "segmentation", protocol, extractor, facts, found.scores, left_out)
    if args.pictures is not None:
        draw(found, protocol, args)
    context.teardown()
    return 0


def draw(found: Segmentation, protocol: SegmentProtocol, args: argparse.Namespace) -> None:
    """Image, truth, prediction and error of the first test images."""
    columns = {
        "image": [of_pixels(pixels) for pixels, _, _ in found.shown],
        "truth": [coloured(truth, found.classes) for _, truth, _ in found.shown],
        "prediction": [coloured(said, found.classes) for _, _, said in found.shown],
        "error": [mistakes(said, truth, protocol.ignore) for _, truth, said in found.shown],
    }
    names = [f"test image {i}" for i in range(len(found.shown))]
    title = f"segmentation, {args.protocol}, {args.weights}: mIoU {found.scores[0]['mIoU']:.3f}"
    sheet(columns, names, title, args.pictures)
    print(f"  picture {args.pictures}")
