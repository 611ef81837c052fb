"""Images with their depth, opened and checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dinov3.data.decode import Pixels, Reading, fit_channels
from dinov3.data.errors import BadImage, DataError
from dinov3.dense.depth_metrics import valid_pixels
from dinov3.dense.sets import DenseSet, digest_of_truths, open_parts, read_usable
from dinov3.depth.config import DepthConfig
from dinov3.finetune.headed.over import CHECKED, check_sample, spread


@dataclass(frozen=True)
class MeasuredSet:
    """Images with their distances in metres, 0 where nobody knows."""

    dense: DenseSet
    low: float
    high: float
    reading: Reading

    def __len__(self) -> int:
        return len(self.dense)

    def name(self, index: int) -> str:
        return self.dense.name(index)

    def read(self, index: int, channels: int) -> tuple[Pixels, NDArray[np.float32]]:
        """(pixels ``[H, W, C]``, depth ``[H, W]``). Raises BadImage, also for sizes that differ and a file of 8 bits; DataError
        for channels the backbone does not take."""
        pixels, depth = self._both(index)
        return fit_channels(pixels, channels), depth

    def check(self, index: int) -> None:
        """Raises BadImage for what ``read`` would not take."""
        self._both(index)

    def _both(self, index: int) -> tuple[Pixels, NDArray[np.float32]]:
        pixels, depth = read_usable(self.dense, index, self.reading)
        return pixels, np.ascontiguousarray(depth, dtype=np.float32)

    def counts(self, index: int) -> bool:
        """Whether any of its pixels is between ``low`` and ``high``; an image that cannot be read has none."""
        try:
            depth = torch.from_numpy(np.require(self.dense.truth(index), requirements=["C", "W"]))
        except (BadImage, OSError):
            return False
        return bool(valid_pixels(depth, self.low, self.high).any())

    def content(self) -> str:
        """What identifies the images and, by a sample, the depths."""
        seen = digest_of_truths(self.dense, spread(len(self), CHECKED), "<f4")
        return f"{self.dense.identity().content}/depth-{seen}"


def open_measured(cfg: DepthConfig) -> tuple[MeasuredSet, MeasuredSet]:
    """(training, validation) of ``train.dataset_path``.

    A sample of both is read: DataError when more of it is unusable than ``data.max_bad_frac`` allows, or no pixel of it counts.
    """
    train, reading = cfg.train, Reading.from_config(cfg)
    parts = open_parts(train.dataset_path, "depth", units=train.units)
    first, second = (MeasuredSet(part, train.low, train.high, reading) for part in parts)
    for measured, name in ((first, "training"), (second, "validation")):
        check_sample(len(measured), measured.check, measured.name, train.dataset_path, cfg.data.max_bad_frac)
        if not any(measured.counts(index) for index in spread(len(measured), CHECKED)):
            raise DataError(
                f"{train.dataset_path}: no {name} image has a depth between train.low {train.low:g} and train.high "
                f"{train.high:g} m: check them and train.units ({train.units:g} a metre)"
            )
    return first, second
