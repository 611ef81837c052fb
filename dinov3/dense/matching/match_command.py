"""``dinov3 eval match``: do frozen patch features find the same place again in another image?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.data.errors import DataError
from dinov3.dense.evaluation import Evaluation
from dinov3.dense.matching.match import Matches, check, homographies, keypoints, navi
from dinov3.dense.matching.pairs import chosen_pairs, coco_keypoints, spair
from dinov3.dense.protocols import MATCH, MatchProtocol
from dinov3.dense.report import LeftOut, add_common_arguments
from dinov3.dense.sets import images_of
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


class MatchEvaluation(Evaluation[MatchProtocol, None, Matches]):
    """Correspondence of patch features."""

    task = "correspondence"

    def check(self, protocol: MatchProtocol) -> None:
        check(protocol)

    def open(self, args: argparse.Namespace, protocol: MatchProtocol) -> None:
        """Each task opens its own, as it goes."""

    def measure(
        self,
        args: argparse.Namespace,
        protocol: MatchProtocol,
        extractor: FeatureExtractor,
        data: None,
        left_out: LeftOut,
    ) -> Matches:
        found = measured(args, protocol, extractor, left_out)
        left_out.check(args.max_bad_frac)
        return found

    def facts(self, found: Matches, extractor: FeatureExtractor) -> Mapping[str, Any]:
        return {"pairs": found.pairs, "positional_bias": found.facts, "patch_px": extractor.preprocess.patch}

    def notes(self, found: Matches) -> Sequence[str]:
        if not found.facts:
            return []
        return [
            f"  debiased: {found.facts['directions_removed']} directions, estimated on {found.facts['estimated_on']}; "
            f"the place explains {found.facts['share_of_variance']:.1%} of their features"
        ]

    def draw(
        self, found: Matches, protocol: MatchProtocol, extractor: FeatureExtractor, args: argparse.Namespace
    ) -> None:
        draw(found, extractor, args)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    return MatchEvaluation(MATCH).execute(args)


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
