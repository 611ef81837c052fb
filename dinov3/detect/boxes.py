"""Boxes of one image: corners, classes, and which of them do not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_VISIBLE = 0.25  # share of a box that a view must still show, or nobody can tell what it is


@dataclass(frozen=True)
class Boxes:
    """``corners`` [n, 4] float32: left, top, right, bottom in px from the image's corner, of an area above 0."""

    corners: NDArray[np.float32]
    classes: NDArray[np.int64]  # [n]
    ignored: NDArray[np.bool_]  # [n] crowds and what is marked as ignored: neither wanted nor wrong
    areas: NDArray[np.float64]  # [n] px, of the object where the annotation says it, for COCO's small, medium and large

    def __len__(self) -> int:
        return len(self.classes)

    def moved(self, move: Move) -> Boxes:
        """As a view shows them: cut at its edges; those of which it shows too little are ignored, or gone."""
        x = self.corners[:, [0, 2]] * move.scale[0] + move.shift[0]
        y = self.corners[:, [1, 3]] * move.scale[1] + move.shift[1]
        if move.mirrored:
            x = move.side - x[:, ::-1]
        before = (x[:, 1] - x[:, 0]) * (y[:, 1] - y[:, 0])
        x, y = x.clip(0, move.side), y.clip(0, move.side)
        sides = np.stack([x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]], axis=1)  # [n, 2]
        seen = sides.min(axis=1, initial=np.inf) > 0
        little = (sides.prod(axis=1) < LEAST_VISIBLE * before) | (sides.min(axis=1, initial=np.inf) < 1)
        corners = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float32)
        return Boxes(corners[seen], self.classes[seen], (self.ignored | little)[seen], self.areas[seen])


class Move(NamedTuple):
    """From an image to a square view of ``side`` px: scaled, shifted, then mirrored."""

    scale: tuple[float, float]  # (x, y)
    shift: tuple[int, int]  # px (x, y)
    mirrored: bool
    side: int


def boxes_of(corners: list[list[float]], classes: list[int], ignored: list[bool], areas: list[float]) -> Boxes:
    """From lists of the same length, which may be empty."""
    return Boxes(
        np.asarray(corners, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int64),
        np.asarray(ignored, np.bool_),
        np.asarray(areas, np.float64),
    )
