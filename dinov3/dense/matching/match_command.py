"""``dinov3 eval match``: do frozen patch features find the same place again in another image?"""

from __future__ import annotations

import argparse
from typing import Any

from dinov3.data.errors import DataError
from dinov3.dense.matching.match import Matches, check, homographies, keypoints, navi
from dinov3.dense.matching.pairs import chosen_pairs, coco_keypoints, spair
from dinov3.dense.protocols import MATCH, MatchProtocol, chosen
from dinov3.dense.report import LeftOut, add_common_arguments, check_places, finish
from dinov3.dense.sets import images_of
from dinov3.distributed import context
from dinov3.features.command import extractor_from
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.system.paths import expanded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval match``."""
    parser.description = (
        "Correspondence of patch features, raw, without their positional bias, and of plain colours. homography: any "
        "images, no labels; spair, keypoints: PCK of annotated points; navi: recall in millimetres on scanned objects."
    )
    add_common_arguments(
        parser, MATCH, "homography: images; spair, navi: the data set's folder; keypoints: images and a COCO file"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    protocol = chosen(MATCH, args.protocol, args.opts)
    check(protocol)
    check_places(args)
    left_out = LeftOut()
    extractor = extractor_from(args)
    try:
        found = measured(args, protocol, extractor, left_out)
    except (ValueError, FloatingPointError) as error:
        raise FeatureError(str(error)) from error
    left_out.check(args.max_bad_frac)
    facts: dict[str, Any] = {
        "pairs": found.pairs,
        "positional_bias": found.facts,
        "patch_px": extractor.preprocess.patch,
    }
    finish(args, "correspondence", protocol, extractor, facts, found.scores, left_out)
    if found.facts:
        print(
            f"  debiased: {found.facts['directions_removed']} directions, estimated on {found.facts['estimated_on']}; "
            f"the place explains {found.facts['share_of_variance']:.1%} of their features"
        )
    if args.pictures is not None:
        draw(found, extractor, args)
    context.teardown()
    return 0


def measured(
    args: argparse.Namespace, protocol: MatchProtocol, extractor: FeatureExtractor, left_out: LeftOut
) -> Matches:
    """By the protocol's task."""
    if protocol.task == "homography":
        return homographies(extractor, images_of(args.data), protocol, left_out)
    root = expanded(args.data)
    if not root.is_dir():
        raise DataError(f"--data {root}: {protocol.task} needs its folder")
    if protocol.task == "navi":
        return navi(extractor, root, protocol, left_out)
    if protocol.task == "keypoints":
        return keypoints(extractor, coco_keypoints(root, protocol.most_pairs, protocol.seed), protocol, left_out)
    pairs = spair(root)
    kept = [pairs[i] for i in chosen_pairs(len(pairs), protocol.most_pairs, protocol.seed)]
    return keypoints(extractor, kept, protocol, left_out)


def draw(found: Matches, extractor: FeatureExtractor, args: argparse.Namespace) -> None:
    """Source and target side by side, matches in the colour of their place in the source."""
    from dinov3.dense.matching.match_picture import match_picture

    if not found.shown:
        print("  no picture: this task draws none")
        return
    title = f"correspondence, {args.protocol}, {args.weights}"
    match_picture(found.shown, extractor.preprocess.mean, extractor.preprocess.std, title, args.pictures)
    print(f"  picture {args.pictures}")
