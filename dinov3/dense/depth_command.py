"""``dinov3 eval depth``: how well does a linear head on frozen patch features tell distance?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.dense.depth import Depth, check, evaluate
from dinov3.dense.depth_picture import draw_depth
from dinov3.dense.evaluation import Evaluation
from dinov3.dense.protocols import DEPTH, DepthProtocol
from dinov3.dense.report import LeftOut, add_common_arguments, cache_of
from dinov3.dense.sets import DenseSet, open_parts
from dinov3.features.extract import FeatureExtractor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval depth``."""
    parser.description = (
        "RMSE and the other depth scores of a linear head over bins on frozen patch features. small: whole images, "
        "seconds on a CPU; nyu_linear: DINOv3's 38,400 iterations on random crops, the Eigen crop, flip."
    )
    add_common_arguments(
        parser,
        DEPTH,
        "folder with images/ and depth/ (16-bit PNG, units=1000 a metre), or Synthetic:n=200:size=96",
        caches=True,
    )


class DepthEvaluation(Evaluation[DepthProtocol, tuple[DenseSet, DenseSet], Depth]):
    """A linear head over bins."""

    task = "depth"

    def check(self, protocol: DepthProtocol) -> None:
        check(protocol)

    def open(self, args: argparse.Namespace, protocol: DepthProtocol) -> tuple[DenseSet, DenseSet]:
        return open_parts(args.data, "depth", units=protocol.units)

    def measure(
        self,
        args: argparse.Namespace,
        protocol: DepthProtocol,
        extractor: FeatureExtractor,
        data: tuple[DenseSet, DenseSet],
        left_out: LeftOut,
    ) -> Depth:
        return evaluate(extractor, *data, protocol, cache_of(args), left_out, max_bad_frac=args.max_bad_frac)

    def facts(self, found: Depth, extractor: FeatureExtractor) -> Mapping[str, Any]:
        return {"images": found.images, "without_valid_pixels": found.without_truth}

    def notes(self, found: Depth) -> Sequence[str]:
        count = found.without_truth
        said = f"  {count} test images have no valid pixel and are in no mean (DINOv3's code: silog 0)"
        return [said] if count else []

    def draw(
        self, found: Depth, protocol: DepthProtocol, extractor: FeatureExtractor, args: argparse.Namespace
    ) -> None:
        """Image, truth, prediction and relative error of the first test images; near is dark."""
        names = [f"test image {i}" for i in range(len(found.shown))]
        title = f"depth, {args.protocol}, {args.weights}: RMSE {found.scores[0]['rmse']:.3f} m"
        bounds = (protocol.low, protocol.high)
        draw_depth(found.shown, *bounds, names, title, args.pictures, eigen=protocol.eigen)
        print(f"  picture {args.pictures}")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    return DepthEvaluation(DEPTH).execute(args)
