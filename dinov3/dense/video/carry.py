"""The labels of a first frame carried through the frames that follow, as masks of the frames' own size."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.augment import nearest
from dinov3.dense.video.frame_features import FrameReader
from dinov3.dense.video.propagation import Rules, Tracker, one_hot, to_grid, to_mask


class Carrier:
    """``first`` with the first frame and its labels, then ``next`` with each frame. Keeps no more than ``Rules`` say."""

    def __init__(self, reader: FrameReader, rules: Rules) -> None:
        self.reader, self.rules = reader, rules
        self._tracker: Tracker | None = None

    def first(self, pixels: Pixels, labels: Tensor) -> None:
        """Begin. ``labels [H, W]`` are any whole numbers; ValueError when there is only one."""
        self.first_features(self.reader.map(pixels), labels)

    def first_features(self, features: Tensor, labels: Tensor) -> None:
        """``first`` with patch features ``[h, w, D]``."""
        self.numbers, dense = labels.unique(return_inverse=True)
        if len(self.numbers) < 2:
            raise ValueError(f"the first mask is {int(self.numbers[0])} everywhere: there is nothing to follow")
        small = to_grid(dense, (features.shape[0], features.shape[1]), self.rules.variant)
        self._tracker = Tracker(features, one_hot(small, len(self.numbers)), self.rules)

    def next(self, pixels: Pixels) -> Tensor:
        """Labels ``[H, W]`` of the next frame, in the numbers of the first mask."""
        return self.next_features(self.reader.map(pixels), (pixels.shape[0], pixels.shape[1]))

    def next_features(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """``next`` with patch features ``[h, w, D]``, for a frame of (height, width)."""
        if self._tracker is None:
            raise ValueError("the first frame comes first")
        probabilities = self._tracker.step(features)
        if self.rules.variant == "dino":  # its script enlarges to whole patches, then takes the nearest
            patch = self.reader.extractor.preprocess.patch
            grid = (probabilities.shape[0] * patch, probabilities.shape[1] * patch)
            dense = nearest(to_mask(probabilities, grid, "dino"), size)
        else:
            dense = to_mask(probabilities, size)
        return self.numbers[dense.long()]


def objects_of(labels: Tensor) -> list[int]:
    """The numbers of a mask but 0, the background."""
    return [int(n) for n in torch.unique(labels) if int(n) != 0]
