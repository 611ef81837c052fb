"""``dinov3 eval track``: do frozen patch features carry the masks of a first frame through a video?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from dinov3.dense.evaluation import Evaluation
from dinov3.dense.palette import coloured, mistakes, of_pixels, sheet
from dinov3.dense.protocols import TRACK, TrackProtocol
from dinov3.dense.report import LeftOut, add_common_arguments
from dinov3.dense.video.films import Film, Lacking, open_films
from dinov3.dense.video.track import Track, rules_of, track
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval track``."""
    parser.description = (
        "J&F of masks propagated by patch similarity. davis: DINOv3's settings (short side 960, 7 frames and the first, "
        "radius 12, 5 neighbours, temperature 0.2); davis_dino: those of DINO's script; small: frames as they are."
    )
    add_common_arguments(
        parser, TRACK, "DAVIS, a folder with frames/ and masks/, or SyntheticVideo:n=4:length=60:size=96", size="native"
    )


Films = tuple[list[Film], list[Lacking]]  # and what is not as it should be


class TrackEvaluation(Evaluation[TrackProtocol, Films, Track]):
    """Masks carried from frame to frame."""

    task = "tracking"

    def check(self, protocol: TrackProtocol) -> None:
        try:
            rules_of(protocol)
        except ValueError as error:
            raise FeatureError(str(error)) from error

    def open(self, args: argparse.Namespace, protocol: TrackProtocol) -> Films:
        return open_films(args.data)

    def measure(
        self,
        args: argparse.Namespace,
        protocol: TrackProtocol,
        extractor: FeatureExtractor,
        data: Films,
        left_out: LeftOut,
    ) -> Track:
        films, lacking = data
        for name, reason in lacking:
            left_out.add(name, reason)
        found = track(extractor, films, protocol, left_out)
        left_out.check(args.max_bad_frac)
        return found

    def facts(self, found: Track, extractor: FeatureExtractor) -> Mapping[str, Any]:
        return {"videos": found.videos}

    def draw(
        self, found: Track, protocol: TrackProtocol, extractor: FeatureExtractor, args: argparse.Namespace
    ) -> None:
        """Frame, truth, prediction and error of a few frames."""
        if not found.shown:
            return
        most = 1 + max(int(truth.max()) for _, _, truth, _ in found.shown)
        columns = {
            "frame": [of_pixels(pixels) for _, pixels, _, _ in found.shown],
            "truth": [coloured(truth, most) for _, _, truth, _ in found.shown],
            "prediction": [coloured(said, most) for _, _, _, said in found.shown],
            "error": [mistakes(said, truth, -1) for _, _, truth, said in found.shown],
        }
        title = f"tracking, {args.protocol}, {args.weights}: J&F {found.scores[0]['J&F']:.3f}"
        sheet(columns, [name for name, _, _, _ in found.shown], title, args.pictures)
        print(f"  picture {args.pictures}")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    return TrackEvaluation(TRACK).execute(args)
