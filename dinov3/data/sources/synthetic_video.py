"""Films of the synthetic landscapes: the object crosses its scene, goes behind a tree, and the film cuts away and back.

Not a data set for training: ``frames(index)`` are the pictures of one film in order, each with its segmentation, for
``dinov3 eval track`` and ``dinov3 video``. Each frame is a function of seed, index and its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinov3.data.sources.synthetic import Moved, Synthetic
from dinov3.data.sources.world import OBJECT, Scene

SIDE = 0.16  # where the object begins and ends, in picture widths from the edge
SCALE, TURN = 0.5, 0.5  # of the object: its size, and radians over the film
OTHER_SCENE = 10_007  # added to the index of what the film cuts to


@dataclass(frozen=True)
class SyntheticVideo:
    """``n`` films of ``length`` frames of ``size`` pixels a side."""

    n: int = 4
    length: int = 60
    size: int = 96
    seed: int = 0
    cut: bool = True  # a tenth of the film, two thirds in, shows another scene
    occlusion: bool = True  # the object passes behind a tree in the first half

    def scene(self, index: int, frame: int) -> Scene:
        """One frame with its segmentation. IndexError beyond the end."""
        if not (0 <= index < self.n and 0 <= frame < self.length):
            raise IndexError(f"film {index} frame {frame} of {self.n} films of {self.length} frames")
        source = Synthetic(n=self.n + OTHER_SCENE, size=self.size, seed=self.seed)
        if self.is_cut_away(frame):
            return source.scene(index + OTHER_SCENE)
        time = frame / max(1, self.length - 1)
        still = source.scene(index).segmentation
        place = float(np.nonzero(still >= OBJECT)[1].mean()) / self.size
        begin, end = (SIDE, 1 - SIDE) if place < 0.5 else (1 - SIDE, SIDE)
        across = begin - place + (end - begin) * time
        screen = (begin + end) / 2 - (end - begin) / 8 if self.occlusion else None
        return source.scene(index, Moved(across, TURN * time, SCALE, screen))

    def is_cut_away(self, frame: int) -> bool:
        """Whether this frame shows another scene."""
        first = (2 * self.length) // 3
        return self.cut and first <= frame < first + max(1, self.length // 10)

    def frames(self, index: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """(picture ``[size, size, 3]``, 1 where the film's object is and 0 elsewhere ``[size, size]``) in order."""
        for frame in range(self.length):
            scene = self.scene(index, frame)
            there = (scene.segmentation >= OBJECT) & (not self.is_cut_away(frame))
            yield scene.image, there.astype(np.uint8)

    def name(self, index: int) -> str:
        """What to call a film."""
        return f"SyntheticVideo:seed={self.seed} film {index}"
