"""``dinov3 eval seg``: how well does a linear head on frozen patch features name every pixel?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from dinov3.dense.evaluation import Evaluation
from dinov3.dense.palette import coloured, mistakes, of_pixels, sheet
from dinov3.dense.protocols import SEGMENT, SegmentProtocol
from dinov3.dense.report import LeftOut, add_common_arguments, cache_of
from dinov3.dense.segment import Segmentation, check, evaluate
from dinov3.dense.sets import DenseSet, open_parts
from dinov3.features.extract import FeatureExtractor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval seg``."""
    parser.description = (
        "Mean IoU of a linear head, and of dense k-NN, on frozen patch features. small: whole images, a few seconds on a "
        "CPU; ade20k_linear: DINOv3's 40,000 iterations on random crops, sliding windows in the test."
    )
    add_common_arguments(
        parser,
        SEGMENT,
        "folder with images/ and masks/ (PNG of class numbers), or Synthetic:n=200:size=96",
        caches=True,
    )


class SegmentEvaluation(Evaluation[SegmentProtocol, tuple[DenseSet, DenseSet], Segmentation]):
    """A linear head, and dense k-NN."""

    task = "segmentation"

    def check(self, protocol: SegmentProtocol) -> None:
        check(protocol)

    def open(self, args: argparse.Namespace, protocol: SegmentProtocol) -> tuple[DenseSet, DenseSet]:
        return open_parts(args.data, "mask")

    def measure(
        self,
        args: argparse.Namespace,
        protocol: SegmentProtocol,
        extractor: FeatureExtractor,
        data: tuple[DenseSet, DenseSet],
        left_out: LeftOut,
    ) -> Segmentation:
        return evaluate(extractor, *data, protocol, cache_of(args), left_out, max_bad_frac=args.max_bad_frac)

    def facts(self, found: Segmentation, extractor: FeatureExtractor) -> Mapping[str, Any]:
        return {"images": found.images, "classes": found.classes}

    def draw(
        self, found: Segmentation, protocol: SegmentProtocol, extractor: FeatureExtractor, args: argparse.Namespace
    ) -> None:
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


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    return SegmentEvaluation(SEGMENT).execute(args)
