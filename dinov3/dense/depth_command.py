"""``dinov3 eval depth``: how well does a linear head on frozen patch features tell distance?"""

from __future__ import annotations

import argparse

from dinov3.dense.depth import Depth, check, evaluate
from dinov3.dense.depth_picture import draw_depth
from dinov3.dense.protocols import DEPTH, DepthProtocol, chosen
from dinov3.dense.report import LeftOut, add_common_arguments, cache_of, check_places, finish
from dinov3.dense.sets import open_parts
from dinov3.distributed import context
from dinov3.features.command import extractor_from
from dinov3.features.errors import FeatureError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval depth``."""
    parser.description = (
        "RMSE and the other depth scores of a linear head over bins on frozen patch features. small: whole images, "
        "seconds on a CPU; nyu_linear: DINOv3's 38,400 iterations on random crops, the Eigen crop, flip."
    )
    add_common_arguments(
        parser, DEPTH, "folder with images/ and depth/ (16-bit PNG, units=1000 a metre), or Synthetic:n=200:size=96"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    protocol = chosen(DEPTH, args.protocol, args.opts)
    check(protocol)
    check_places(args)
    train, test = open_parts(args.data, "depth", units=protocol.units)
    extractor = extractor_from(args)
    left_out = LeftOut()
    try:
        found = evaluate(extractor, train, test, protocol, cache_of(args), left_out, max_bad_frac=args.max_bad_frac)
    except (ValueError, FloatingPointError) as error:
        raise FeatureError(str(error)) from error
    facts = {
        "images": found.images,
        "without_valid_pixels": found.without_truth,
    }
    finish(args, "depth", protocol, extractor, facts, found.scores, left_out)
    if found.without_truth:
        print(f"  {found.without_truth} test images have no valid pixel and are in no mean (DINOv3's code: silog 0)")
    if args.pictures is not None:
        draw(found, protocol, args)
    context.teardown()
    return 0


def draw(found: Depth, protocol: DepthProtocol, args: argparse.Namespace) -> None:
    """Image, truth, prediction and relative error of the first test images; near is dark."""
    names = [f"test image {i}" for i in range(len(found.shown))]
    title = f"depth, {args.protocol}, {args.weights}: RMSE {found.scores[0]['rmse']:.3f} m"
    bounds = (protocol.low, protocol.high)
    draw_depth(found.shown, *bounds, names, title, args.pictures, eigen=protocol.eigen)
    print(f"  picture {args.pictures}")
