"""``dinov3 video``: a video through a frozen backbone, frame by frame; memory does not grow with its length."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources.imagefolder import refuse_inside
from dinov3.dense.protocols import TRACK, chosen
from dinov3.dense.report import LeftOut
from dinov3.dense.truth_files import check_same_size, read_mask
from dinov3.dense.video.carry import Carrier
from dinov3.dense.video.frame_colours import FrameColours
from dinov3.dense.video.frame_features import FrameReader, rows_of
from dinov3.dense.video.frames import FileFrames, FolderFrames, open_frames
from dinov3.dense.video.render import FileScreen, FolderScreen, Screen, overlaid, save_mask
from dinov3.dense.video.smoothing import Smoother
from dinov3.dense.video.track import rules_of
from dinov3.dense.video.video_features import FrameWriter
from dinov3.distributed import context
from dinov3.features.cache import weights_digest
from dinov3.features.command import add_extractor_arguments, extractor_from
from dinov3.features.errors import FeatureError
from dinov3.features.tokens import Tokens
from dinov3.runs.output import check_results_folder
from dinov3.system.paths import expanded

DESCRIPTION = """\
Frames of a video file or a folder through a frozen backbone. With --mask the labels of the first frame are carried
through (OUT/masks) and shown over the frames (OUT/overlay.mp4, or a folder of PNGs); without, patch features are shown
as colours. --features keeps the tokens of every frame in the format of `dinov3 features`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 video``."""
    parser.description = DESCRIPTION
    add_extractor_arguments(parser, size="native")
    parser.add_argument("--input", required=True, help="video file (needs PyAV: dinov3[video]) or folder of frames")
    parser.add_argument("--out", required=True, type=expanded, help="folder for what is made")
    parser.add_argument("--mask", type=expanded, help="PNG of numbers: the labels of the first frame")
    parser.add_argument("--protocol", default="small", choices=TRACK, help="how labels are carried (default small)")
    parser.add_argument("--render", default="mp4", choices=("mp4", "png", "none"), help="what is shown (default mp4)")
    parser.add_argument("--features", action="store_true", help="keep the tokens of every frame, in OUT/features")
    parser.add_argument(
        "--smooth",
        type=float,
        default=1.0,
        help="weight of a new frame in the mean over frames: 0.7; 1: none (default)",
    )
    parser.add_argument("--max-bad-frac", type=float, default=0.1, help="share of unreadable frames that is an error")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes of the protocol: short_side=480")


@dataclass
class Run:
    """What one video needs, and what was found so far."""

    reader: FrameReader
    smoother: Smoother
    screen: Screen | None
    writer: FrameWriter | None
    carrier: Carrier | None
    first_mask: Tensor | None
    masks: Path
    left_out: LeftOut = field(default_factory=LeftOut)
    colours: FrameColours = field(default_factory=FrameColours)
    size: tuple[int, int] | None = None
    used: int = 0

    def frame(self, number: int, pixels: Pixels) -> None:
        """One frame through everything. BadImage when it has another size than the first."""
        size = (pixels.shape[0], pixels.shape[1])
        if self.size is not None and size != self.size:
            raise BadImage(f"{size[1]}x{size[0]}, the first frame is {self.size[1]}x{self.size[0]}")
        self.size = size
        tokens = self.steadied(self.reader.tokens(pixels))
        if self.writer is not None:
            self.writer.add(number, tokens)
        if self.carrier is not None:
            self.follow(number, pixels, tokens)
        elif self.screen is not None:
            self.screen.show(np.concatenate([pixels, self.colours(rows_of(tokens), size)], axis=1))
        self.used += 1

    def steadied(self, tokens: Tokens) -> Tokens:
        """``tokens`` after the smoother: all of a frame together, so that they begin anew together."""
        parts = torch.cat([tokens.cls[:, None], tokens.storage, tokens.patches], dim=1)
        steady = self.smoother(parts)
        storage = tokens.storage.shape[1]
        return Tokens(steady[:, 0], steady[:, 1 : 1 + storage], steady[:, 1 + storage :], tokens.grid)

    def follow(self, number: int, pixels: Pixels, tokens: Tokens) -> None:
        """Carry the labels to this frame, write and show them."""
        assert self.carrier is not None
        size = (pixels.shape[0], pixels.shape[1])
        if self.used == 0:
            assert self.first_mask is not None
            check_same_size(size, (self.first_mask.shape[0], self.first_mask.shape[1]))
            self.carrier.first_features(rows_of(tokens), self.first_mask)
            self.masks.mkdir(parents=True, exist_ok=True)
            labels = self.first_mask
        else:
            labels = self.carrier.next_features(rows_of(tokens), size)
        save_mask(labels, self.masks / f"{number:06d}.png")
        if self.screen is not None:
            self.screen.show(overlaid(pixels, labels))


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    protocol = chosen(TRACK, args.protocol, args.opts)
    check_results_folder(args.out, "--out")
    refuse_inside(args.out, args.input)
    frames = open_frames(args.input)
    first_mask = None if args.mask is None else read_first_mask(args.mask)
    try:
        smoother, rules = Smoother(args.smooth), rules_of(protocol)
    except ValueError as error:
        raise FeatureError(str(error)) from error
    extractor = extractor_from(args)
    reader = FrameReader(extractor, protocol.short_side)
    carrier = None if first_mask is None else Carrier(reader, rules)
    key = {
        "weights": weights_digest(extractor.backbone),
        "dataset": frames.fingerprint(),
        "preprocess": extractor.preprocess.describe(),
        "short_side": protocol.short_side,
        "smooth": args.smooth,
        "compute_dtype": extractor.dtype,
    }
    writer = FrameWriter(args.out / "features", key) if args.features else None
    run = Run(reader, smoother, screen_of(args, frames.rate), writer, carrier, first_mask, args.out / "masks")
    try:
        through(frames, run)
    except ValueError as error:
        raise FeatureError(str(error)) from error
    report(args, run)
    run.left_out.check(args.max_bad_frac)
    context.teardown()
    return 0


def through(frames: FolderFrames | FileFrames, run: Run) -> None:
    """Every frame in order; what cannot be used is counted. DataError when the first cannot, as the mask is of it."""
    for number, frame in enumerate(frames):
        run.left_out.of += 1
        name, reason = frame if isinstance(frame, tuple) else (f"frame {number}", "")
        try:
            if isinstance(frame, tuple):
                raise BadImage(reason)
            run.frame(number, frame)
        except BadImage as error:
            if run.used == 0 and run.carrier is not None:
                raise DataError(f"{name}: {error}: the first frame is what the mask is of") from error
            run.left_out.add(name, str(error))
    if not run.used:
        raise DataError(
            f"no frame can be used: {run.left_out.rows[0]['reason'] if run.left_out.rows else 'empty video'}"
        )


def read_first_mask(path: Path) -> Tensor:
    """Labels ``[H, W]`` of 0 to 255. Raises DataError."""
    try:
        labels = read_mask(path)
    except (BadImage, OSError) as error:
        raise DataError(f"--mask {path}: {error}") from error
    if labels.min() < 0 or labels.max() > 255:
        raise DataError(f"--mask {path}: labels from {labels.min()} to {labels.max()}: 0 to 255 are expected")
    return torch.from_numpy(labels)


def screen_of(args: argparse.Namespace, rate: float) -> Screen | None:
    """Where frames are shown."""
    if args.render == "none":
        return None
    return FolderScreen(args.out / "overlay") if args.render == "png" else FileScreen(args.out / "overlay.mp4", rate)


def report(args: argparse.Namespace, run: Run) -> None:
    """Finish what is written, and say where it is."""
    made: dict[str, Any] = {"frames": run.used, "left out": len(run.left_out.rows), "cuts": run.smoother.resets}
    if run.carrier is not None:
        made["masks"] = run.masks
    if run.screen is not None:
        made["shown in"] = run.screen.close()
    if run.writer is not None:
        made["features"] = run.writer.finish(run.left_out.rows)
    print("\n".join([f"  {name:9} {value}" for name, value in made.items()] + run.left_out.lines()))
