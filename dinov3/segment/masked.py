"""Images with their masks, opened and checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinov3.data.decode import Pixels, Reading, fit_channels
from dinov3.data.errors import BadImage, DataError
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.segment import count_classes, prepared
from dinov3.dense.sets import DenseSet, digest_of_truths, open_parts, read_both, read_usable
from dinov3.finetune.headed.over import CHECKED, check_sample, spread
from dinov3.segment.config import SegmentConfig


@dataclass(frozen=True)
class MaskedSet:
    """Images, and what their masks mean."""

    dense: DenseSet
    classes: int
    meaning: SegmentProtocol  # which number is ignored, and whether 0 is a class
    reading: Reading

    def __len__(self) -> int:
        return len(self.dense)

    def name(self, index: int) -> str:
        return self.dense.name(index)

    def read(self, index: int, channels: int) -> tuple[Pixels, NDArray[np.int32]]:
        """(pixels ``[H, W, C]``, class numbers ``[H, W]``). Raises BadImage, also for sizes that differ and a number that is
        no class; DataError for channels the backbone does not take."""
        pixels, mask = read_usable(self.dense, index, self.reading)
        return fit_channels(pixels, channels), prepared(mask, self.classes, self.meaning)

    def check(self, index: int) -> None:
        """Raises BadImage or OSError for what ``read`` would not take."""
        prepared(read_both(self.dense, index, self.reading)[1], self.classes, self.meaning)

    def has_label(self, index: int) -> bool:
        """Whether a pixel of it has one; not when it cannot be read."""
        try:
            return bool((prepared(self.dense.truth(index), self.classes, self.meaning) != self.meaning.ignore).any())
        except (BadImage, OSError):
            return False

    def content(self) -> str:
        """What identifies the images and, by a sample, the masks."""
        seen = digest_of_truths(self.dense, spread(len(self), CHECKED), "<i4")
        return f"{self.dense.identity().content}/masks-{seen}/classes-{self.classes}"


def open_masked(cfg: SegmentConfig) -> tuple[MaskedSet, MaskedSet]:
    """(training, validation) of ``train.dataset_path``.

    A sample of both is read: DataError when more of it is unusable than ``data.max_bad_frac`` allows.
    """
    parts = open_parts(cfg.train.dataset_path, "mask")
    meaning = SegmentProtocol(ignore=cfg.train.ignore, reduce_zero=cfg.train.reduce_zero)
    classes = cfg.train.classes or count_classes(parts[0], meaning)
    reading = Reading.from_config(cfg)
    train, validation = (MaskedSet(part, classes, meaning, reading) for part in parts)
    for masked in (train, validation):
        check_sample(len(masked), masked.check, masked.name, cfg.train.dataset_path, cfg.data.max_bad_frac)
    if not any(validation.has_label(index) for index in range(len(validation))):
        raise DataError(
            f"{cfg.train.dataset_path}: no validation mask has a pixel with a label: nothing could be selected by it"
        )
    return train, validation
