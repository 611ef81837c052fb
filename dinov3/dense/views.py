"""Batches for training a head on fresh random views: read, augmented, through the frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.data.randomness import generator
from dinov3.dense.augment import Augment, view
from dinov3.dense.frozen import patch_maps
from dinov3.dense.probe import chosen_rows
from dinov3.dense.report import LeftOut
from dinov3.dense.sets import DenseSet, read_both
from dinov3.features.extract import FeatureExtractor

Prepare = Callable[[NDArray[np.generic]], NDArray[np.generic]]  # of a truth; raises BadImage for one that is unusable


@dataclass
class FreshViews:
    """``batch_at(step)`` for ``fit_head``. A function of seed and step; an unusable image gives its place to the next."""

    extractor: FeatureExtractor
    dense: DenseSet
    rules: Augment
    prepare: Prepare
    batch: int
    seed: int
    left_out: LeftOut
    most_bad: float

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(patch maps ``[N, D, h, w]``, truths ``[N, H, W]``)."""
        images, truths = [], []
        for place, index in enumerate(chosen_rows(len(self.dense), self.batch, self.seed, step)):
            pixels, truth = self._usable(index)
            image, labels = view(pixels, truth, self.rules, generator(self.seed, "dense view", step, place))
            images.append(normalised(image, self.extractor))
            truths.append(labels)
        return patch_maps(self.extractor, torch.stack(images)), torch.stack(truths)

    def _usable(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
        for turn in range(len(self.dense)):
            at = (index + turn) % len(self.dense)
            name = self.dense.name(at)
            if any(row["name"] == name for row in self.left_out.rows):
                continue
            try:
                pixels, truth = read_both(self.dense, at)
                return pixels, self.prepare(truth)
            except BadImage as error:
                self.left_out.add(name, str(error))
                self.left_out.check(self.most_bad)
        raise TooManyBadSamples("no image of the training part can be used")


def normalised(image: Tensor, extractor: FeatureExtractor) -> Tensor:
    """``image [C, H, W]`` in [0, 1] as the backbone takes it."""
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (extractor.preprocess.mean, extractor.preprocess.std))
    return (image - mean) / std
