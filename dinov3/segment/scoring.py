"""Areas of a segmenter on a set: whole images in windows, shared out over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import Pixels
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.dense.segmentation import areas
from dinov3.dense.windows import resized, slide
from dinov3.distributed.collectives import gather_objects
from dinov3.distributed.context import rank, world_size
from dinov3.engine.precision import Precision
from dinov3.features.extract import in_threads
from dinov3.segment.masked import MaskedSet
from dinov3.segment.segmenter import Segmenter
from dinov3.segment.stream import Feeding

SHOWN = 6  # images kept for the picture


@dataclass
class Scored:
    """Of the images that could be used."""

    total: Tensor  # [4, classes] int64, areas as in dinov3.dense.segmentation
    images: int
    skipped: list[BadSample]
    shown: list[tuple[Pixels, Tensor, Tensor]] = field(default_factory=list)  # pixels, truth, prediction [H, W]


@dataclass(frozen=True)
class Scorer:
    """How images are put through a segmenter."""

    feeding: Feeding
    precision: Precision
    crop: int
    stride: int
    threads: int
    max_bad_frac: float = 0.01

    def score(
        self,
        segmenter: Segmenter,
        masked: MaskedSet,
        indices: Sequence[int],
        *,
        shared: bool = True,
        show: bool = False,
        count: Callable[[int], object] = lambda more: None,
    ) -> Scored:
        """``shared``: every process calls this and does its part; all get the whole. ``show``: keep the first images.
        Raises TooManyBadSamples."""
        own = list(indices)[rank() :: world_size()] if shared else list(indices)
        mode = segmenter.training
        segmenter.eval()
        try:
            found = self._score(segmenter, masked, own, SHOWN if show else 0, count)
        finally:
            segmenter.train(mode)
        parts = gather_objects(found) if shared else [found]
        skipped = sorted((bad for part in parts for bad in part.skipped), key=lambda bad: bad.name)
        images = sum(part.images for part in parts)
        if len(skipped) > self.max_bad_frac * len(indices) or not images:
            raise TooManyBadSamples(
                f"{len(skipped)} of {len(indices)} images cannot be used, the first {skipped[0].name}: "
                f"{skipped[0].reason}; mend the data or raise data.max_bad_frac ({self.max_bad_frac:g})"
            )
        return Scored(torch.stack([part.total for part in parts]).sum(0), images, skipped, found.shown)

    def _score(
        self, segmenter: Segmenter, masked: MaskedSet, own: list[int], shown: int, count: Callable[[int], object]
    ) -> Scored:
        found = Scored(torch.zeros(4, masked.classes, dtype=torch.int64), 0, [])

        def read(index: int) -> tuple[Pixels, Tensor] | BadSample:
            try:
                pixels, mask = masked.read(index, self.feeding.channels)
            except BadImage as error:
                return BadSample(masked.dense.name(index), str(error))
            return pixels, torch.from_numpy(mask)

        for one in in_threads(read, own, self.threads):
            count(1)
            if isinstance(one, BadSample):
                found.skipped.append(one)
                continue
            pixels, truth = one
            said = self.predict(segmenter, pixels)
            found.total += areas(said, truth, masked.classes, masked.meaning.ignore)
            found.images += 1
            if len(found.shown) < shown:
                found.shown.append((pixels, truth, said))
        return found

    @torch.no_grad()
    def predict(self, segmenter: Segmenter, pixels: Pixels) -> Tensor:
        """Class numbers ``[H, W]`` of pixels ``[H, W, C]``, on the CPU."""
        image = self.feeding.whole(pixels)[None].to(self.precision.device)
        with self.precision.autocast():
            scores, _ = slide(segmenter, image, (self.crop, self.crop), (self.stride, self.stride))
        return resized(scores.float(), (pixels.shape[0], pixels.shape[1]))[0].argmax(0).cpu()
