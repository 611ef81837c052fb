"""The work of one worker: read an image, cut its crops, draw its masks, all into a slot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS
from dinov3.data.bad_samples import BadSample
from dinov3.data.crops import BOX_DRAWS, GLOBAL_CROPS, cut_and_resize
from dinov3.data.decode import USUAL, Pixels, Reading, fit_channels, read_image
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.data.order import rank_positions
from dinov3.data.randomness import generator
from dinov3.data.resolutions import Resolution, Resolutions
from dinov3.data.sources.mixture import order_of
from dinov3.data.sources.source import Source

ATTEMPTS = 10  # images tried for one sample before the data is called unusable


@dataclass(frozen=True)
class SampleWriter:
    """Fills slots with the samples of one process. A function of the position alone: it keeps no state.

    Under gradient accumulation a global batch is ``parts`` batches of each process. Process ``rank`` holds its
    consecutive images in both cases, so that parts of 16 images are, joined, the batch of a process that takes 64 at once.
    """

    source: Source
    resolutions: Resolutions
    seed: int
    batch_size: int
    rank: int
    world_size: int
    parts: int = 1  # batches of this process in one optimizer step
    reading: Reading = USUAL

    @classmethod
    def from_config(cls, cfg: Config, source: Source, rank: int, world_size: int) -> SampleWriter:
        parts, batch_size = cfg.train.gradient_accumulation_steps, cfg.train.batch_size_per_gpu
        resolutions = Resolutions.from_config(cfg, batch_size * parts * world_size)
        return cls(source, resolutions, cfg.train.seed, batch_size, rank, world_size, parts, Reading.from_config(cfg))

    def resolution_at(self, position: int) -> Resolution:
        """Sizes, layout and masks of the global batch at ``position``."""
        return self.resolutions.at(position)

    @property
    def global_batch(self) -> int:
        """Images of one optimizer step over all processes."""
        return self.batch_size * self.parts * self.world_size

    def batch_at(self, first: int, number: int) -> tuple[int, int]:
        """(position of the global batch, part of it) of this process's batch ``number``, counted from position ``first``."""
        return first + number // self.parts * self.global_batch, number % self.parts

    def positions(self, position: int, part: int) -> NDArray[np.int64]:
        """The samples ``[B]`` of this process's ``part`` of the global batch at ``position``."""
        share = self.rank * self.parts + part
        return rank_positions(position, self.batch_size, share, self.world_size * self.parts)

    def fill(
        self, slot: Tensor, position: int, start: int, stop: int, at_work_on: Tensor | None = None, *, part: int = 0
    ) -> list[BadSample]:
        """Write images ``start`` to ``stop`` of this process's ``part`` of the global batch at ``position`` into ``slot``.

        Returns the images that could not be read; others, drawn for the purpose, are in their place. The position of
        the sample in work is kept in ``at_work_on`` (a scalar), for those who watch.
        """
        resolution = self.resolution_at(position)
        positions = self.positions(position, part)[start:stop]
        epochs, indices = order_of(self.source).samples_at(positions, self.seed)
        draws_there = resolution.layout.draws.within(slot).numpy()  # [views, B, PHOTOMETRIC_DRAWS]
        bad: list[BadSample] = []
        for i, epoch, index in zip(range(start, stop), epochs.tolist(), indices.tolist(), strict=True):
            if at_work_on is not None:
                at_work_on.fill_(int(positions[i - start]))
            draws = self.draws_of(epoch, index)
            draws_there[:, i] = draws[:, BOX_DRAWS:]
            image = torch.from_numpy(self.image_of(epoch, index, bad))
            cut(resolution, slot, i, image, draws[:, :BOX_DRAWS].tolist())
        first = (self.rank * self.parts + part) * self.batch_size
        masks = resolution.masks.draw(position, range(first + start, first + stop))
        resolution.layout.masks.within(slot).numpy()[:, start:stop] = masks
        return bad

    def draws_of(self, epoch: int, index: int) -> NDArray[np.float64]:
        """The uniforms ``[views, BOX_DRAWS + PHOTOMETRIC_DRAWS]`` of this sample: a row is a view's alone."""
        rng = generator(self.seed, "crops", epoch, index)
        return rng.random((self.resolutions.choices[0].geometry.views, BOX_DRAWS + PHOTOMETRIC_DRAWS))

    def image_of(self, epoch: int, index: int, bad: list[BadSample]) -> Pixels:
        """The image ``[H, W, C]`` at ``index``, or the first readable one drawn in its place, from the same dataset.

        Those that could not be read are added to ``bad``. Raises TooManyBadSamples when none can.
        """
        channels = self.resolutions.choices[0].geometry.channels
        for attempt in range(ATTEMPTS):
            chosen = index
            if attempt:
                others = order_of(self.source).dataset_of(index)
                chosen = others[int(generator(self.seed, "substitute", epoch, index, attempt).integers(len(others)))]
            try:
                pixels = fit_channels(read_image(self.source, chosen, self.reading), channels)
            except BadImage as error:
                bad.append(BadSample(self.source.name(chosen), str(error)))
                continue
            return np.require(pixels, requirements=["C", "W"])
        raise TooManyBadSamples(
            f"{ATTEMPTS} images in a row were unreadable, the last {bad[-1].name}: {bad[-1].reason}"
        )


def cut(resolution: Resolution, slot: Tensor, i: int, image: Tensor, draws: list[list[float]]) -> None:
    """Write all crops of ``image [H, W, C]``, the ``i``-th of a batch, into its ``slot``; ``draws``: BOX_DRAWS a view."""
    geometry, layout = resolution.geometry, resolution.layout
    global_crops, local_crops = layout.global_crops.within(slot), layout.local_crops.within(slot)
    boxes = geometry.boxes(draws, image.shape[0], image.shape[1])
    for crop, box in enumerate(boxes[:GLOBAL_CROPS]):
        cut_and_resize(image, box, global_crops[crop, i])
        if layout.gram_crops is not None:
            cut_and_resize(image, box, layout.gram_crops.within(slot)[crop, i])
    for crop, box in enumerate(boxes[GLOBAL_CROPS:]):
        source = global_crops[geometry.parent_of(crop), i] if geometry.locals_in_globals else image
        cut_and_resize(source, box, local_crops[crop, i])
