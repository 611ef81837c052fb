"""At which sizes a batch is cut: one of several sets of crop sizes, drawn anew for every optimizer step.

The draw is a function of (seed, position in the stream of samples), so that all processes, all workers and a resumed
run agree about it without talking. Crops, masks and memory of a step all have the sizes of its draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinov3.config.derived import clean_crop_size, crop_sizes
from dinov3.config.schema import Config
from dinov3.data.crops import CropGeometry
from dinov3.data.masking import MaskPlan
from dinov3.data.randomness import generator
from dinov3.data.slots import SlotLayout


@dataclass(frozen=True)
class Resolution:
    """Everything about a batch that follows from its crop sizes."""

    geometry: CropGeometry
    layout: SlotLayout
    masks: MaskPlan
    upperbound: int  # of masked patches on one process
    clean_size: int | None  # px; None: no clean crops
    share: float  # of all steps

    @property
    def largest(self) -> int:
        """Side of the largest crop made from a global box, px."""
        return max(self.geometry.global_size, self.geometry.gram_size or 0)


@dataclass(frozen=True)
class Resolutions:
    """The resolutions of a run."""

    seed: int
    choices: tuple[Resolution, ...]

    @classmethod
    def from_config(cls, cfg: Config, global_batch: int) -> Resolutions:
        """For ``global_batch`` images a step over all processes."""
        choices, batch_size, ibot = [], cfg.train.batch_size_per_gpu, cfg.ibot
        for sizes in crop_sizes(cfg):
            geometry = CropGeometry.from_config(cfg, sizes)
            masks = MaskPlan.make(
                cfg.train.seed,
                global_batch,
                geometry.global_size,
                geometry.patch_size,
                probability=ibot.mask_sample_probability,
                ratio=(ibot.mask_ratio_min_max[0], ibot.mask_ratio_min_max[1]),
                random_circular_shift=ibot.mask_random_circular_shift,
            )
            layout = SlotLayout.make(geometry, batch_size)
            upperbound, clean = masks.upperbound(batch_size), clean_crop_size(cfg, sizes.global_size)
            choices.append(Resolution(geometry, layout, masks, upperbound, clean, sizes.share))
        return cls(cfg.train.seed, tuple(choices))

    def at(self, position: int) -> Resolution:
        """That of the global batch which starts at ``position``."""
        if len(self.choices) == 1:
            return self.choices[0]
        ends = np.cumsum([choice.share for choice in self.choices])
        draw = generator(self.seed, "resolution", position).random() * ends[-1]
        return self.choices[int(np.searchsorted(ends[:-1], draw, side="right"))]

    @property
    def slot_bytes(self) -> int:
        """Memory of the largest batch."""
        return max(choice.layout.nbytes for choice in self.choices)
