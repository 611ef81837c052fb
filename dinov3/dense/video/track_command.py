"""``dinov3 eval track``: do frozen patch features carry the masks of a first frame through a video?"""

from __future__ import annotations

import argparse

from dinov3.dense.palette import coloured, mistakes, of_pixels, sheet
from dinov3.dense.protocols import TRACK, chosen
from dinov3.dense.report import LeftOut, add_common_arguments, check_places, finish
from dinov3.dense.video.films import open_films
from dinov3.dense.video.track import Track, rules_of, track
from dinov3.distributed import context
from dinov3.features.command import extractor_from
from dinov3.features.errors import FeatureError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 eval track``."""
    parser.description = (
        "J&F of masks propagated by patch similarity. davis: DINOv3's settings (short side 960, 7 frames and the first, "
        "radius 12, 5 neighbours, temperature 0.2); davis_dino: those of DINO's script; small: frames as they are."
    )
    add_common_arguments(
        parser, TRACK, "DAVIS, a folder with frames/ and masks/, or SyntheticVideo:n=4:length=60:size=96", size="native"
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    protocol = chosen(TRACK, args.protocol, args.opts)
    check_places(args)
    films, lacking = open_films(args.data)
    extractor = extractor_from(args)
    left_out = LeftOut()
    for name, reason in lacking:
        left_out.add(name, reason)
    try:
        rules_of(protocol)
        found = track(extractor, films, protocol, left_out)
    except ValueError as error:
        raise FeatureError(str(error)) from error
    left_out.check(args.max_bad_frac)
    facts = {"videos": len(films)}
    finish(args, "tracking", protocol, extractor, facts, found.scores(), left_out)
    if args.pictures is not None and found.shown:
        draw(found, args)
    context.teardown()
    return 0


def draw(found: Track, args: argparse.Namespace) -> None:
    """Frame, truth, prediction and error of a few frames."""
    most = 1 + max(int(truth.max()) for _, _, truth, _ in found.shown)
    columns = {
        "frame": [of_pixels(pixels) for _, pixels, _, _ in found.shown],
        "truth": [coloured(truth, most) for _, _, truth, _ in found.shown],
        "prediction": [coloured(said, most) for _, _, _, said in found.shown],
        "error": [mistakes(said, truth, -1) for _, _, truth, said in found.shown],
    }
    title = f"tracking, {args.protocol}, {args.weights}: J&F {found.scores()[0]['J&F']:.3f}"
    sheet(columns, [name for name, _, _, _ in found.shown], title, args.pictures)
    print(f"  picture {args.pictures}")
