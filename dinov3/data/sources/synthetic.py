"""Endless pictures without a file: ``Synthetic:n=10000:size=96:classes=10:seed=0:near=1``.

Each picture shows one object in a small landscape (world.py), made when it is read. The class is the object's shape
and, beyond ten classes, its texture; colours, light, place and landscape are chance, so the mean colour of a picture
says nothing about its class. ``segmentation`` and ``depth`` give the truth for each pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinov3.data.errors import DataError
from dinov3.data.randomness import generator
from dinov3.data.sources.options import Options
from dinov3.data.sources.world import OBJECT, PLANT, STONE, Field, Floats, Painter, Scene, vivid
from dinov3.data.storage.identity import VERSION, Identity

NAME = "Synthetic"
SCREEN_RADIUS = 0.25  # of a tree in front of the object, in picture heights
KEPT = 70_000_000  # bytes of pictures that a process keeps once drawn: 10,000 of 48 px. One takes 1.7 ms, four times its crops


@dataclass(frozen=True)
class Moved:
    """One moment of a scene in which the object moves."""

    across: float = 0.0  # of the object, in picture widths
    turn: float = 0.0  # of the object, in radians
    scale: float = 1.0  # of the object
    screen: float | None = None  # column of a tree that stands nearer than the object, None for no tree


STILL = Moved()


def open_source(options: Options) -> Synthetic:
    """``Synthetic[:n=10000][:size=96][:classes=10][:seed=0][:near=1]``."""
    source = Synthetic(
        n=options.integer("n", 10_000, 1),
        size=options.integer("size", 96, 16),
        classes=options.integer("classes", 10, 1),
        seed=options.integer("seed", 0, 0),
        near=options.integer("near", 1, 1),
    )
    options.finish()
    return source


class Synthetic:
    """``n`` pictures of ``size`` pixels a side in ``classes`` classes, a function of ``seed``.

    ``near`` 2 shows the object half as far away, so that it fills the picture. Pictures that were read are kept, at most KEPT
    bytes of them.
    """

    def __init__(self, n: int = 10_000, size: int = 96, classes: int = 10, seed: int = 0, near: int = 1) -> None:
        if classes > len(SHAPES) * len(TEXTURES):
            raise DataError(
                f"Synthetic: classes={classes}, but there are {len(SHAPES)} shapes in {len(TEXTURES)} textures"
            )
        self.n, self.size, self.classes, self.seed, self.near = n, size, classes, seed, near
        self._drawn: dict[int, NDArray[np.uint8]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Without what was drawn: another process draws what it needs."""
        return self.__dict__ | {"_drawn": {}}

    def __len__(self) -> int:
        return self.n

    def scene(self, index: int, moved: Moved = STILL) -> Scene:
        """The picture with its segmentation and depth; ``moved`` is another moment of the same scene."""
        if not 0 <= index < self.n:
            raise IndexError(f"{index} is not below {self.n}")
        rng = generator(self.seed, "synthetic", index)
        texture, shape = divmod(self.label(index), len(SHAPES))
        return landscape(rng, self.size, shape, texture if self.classes > len(SHAPES) else None, self.near, moved)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The picture ``[size, size, 3]``."""
        drawn = self._drawn.get(index)
        if drawn is None:
            drawn = self.scene(index).image
            if (len(self._drawn) + 1) * drawn.nbytes <= KEPT:
                self._drawn[index] = drawn
        return drawn.copy()

    def segmentation(self, index: int) -> NDArray[np.uint8]:
        """``[size, size]``: 0 sky, 1 hills, 2 plain, 3 plant, 4 stone, 5 + s the object of shape s."""
        return self.scene(index).segmentation

    def depth(self, index: int) -> NDArray[np.float32]:
        """``[size, size]``: distance, 1 at the bottom edge, 100 for the sky."""
        return self.scene(index).depth

    def label(self, index: int) -> int:
        """Its class: ``texture * 10 + shape``."""
        return int(generator(self.seed, "synthetic class", index).integers(self.classes))

    def name(self, index: int) -> str:
        """Class names and number."""
        return f"Synthetic:seed={self.seed} picture {index} ({list(SHAPES)[self.label(index) % len(SHAPES)]})"

    def fingerprint(self) -> str:
        """The options: they are all there is."""
        return f"Synthetic-1-n{self.n}-size{self.size}-classes{self.classes}-seed{self.seed}-near{self.near}"

    def identity(self) -> Identity:
        """The options: they are all there is."""
        return Identity(VERSION + self.fingerprint(), "made when it is read", self.fingerprint())

    def version(self) -> str:
        """As ``fingerprint``."""
        return self.fingerprint()


def landscape(
    rng: np.random.Generator, size: int, shape: int, texture: int | None, near: int, moved: Moved = STILL
) -> Scene:
    """One scene whose object has the given shape, and texture unless that is None: chance."""
    painter = Painter(size, rng)
    painter.paint_sky()
    painter.paint_hills()
    painter.paint_plain()
    for distance in sorted(rng.uniform(2.6, 9, int(rng.integers(1, 5))).tolist(), reverse=True):
        paint_scenery(painter, distance)
    hue, other = painter.between(0, 1), painter.between(0.25, 0.75)
    first = vivid(hue, painter.between(0.45, 0.9), painter.between(0.6, 1))
    second = vivid(hue + other, 0.6, 0.9) if rng.random() < 0.5 else first * np.float32(0.45)
    radius, distance = min(near * painter.between(0.2, 0.31), 0.46), painter.between(1.25, 1.9)
    column = painter.between(0.8 * radius, 1 - 0.8 * radius) + moved.across
    radius *= moved.scale
    painter.paint_shadow(column, distance, radius)
    chosen = int(rng.integers(len(TEXTURES))) if texture is None else texture
    painter.paint_body(
        list(SHAPES.values())[shape],
        column,
        distance,
        radius,
        (first, second),
        list(TEXTURES.values())[chosen],
        OBJECT + shape,
        turn=painter.between(-0.45, 0.45) + moved.turn,
    )
    if moved.screen is not None:
        bark, leaves = vivid(0.3, 0.5, 0.35), vivid(0.27, 0.55, 0.5)
        painter.paint_body(fir, moved.screen, 1.05, SCREEN_RADIUS, (bark, leaves), speckles, PLANT)
    return painter.finished()


def paint_scenery(painter: Painter, distance: float) -> None:
    """A fir, a round tree or a stone on the plain."""
    kind, column = int(painter.rng.integers(3)), painter.between(0.02, 0.98)
    radius = painter.between(0.22, 0.4) / distance
    painter.paint_shadow(column, distance, 0.7 * radius)
    colour = vivid(painter.between(0.2, 0.42), 0.5, painter.between(0.35, 0.6))
    if kind == 2:
        colour = vivid(0.1, 0.1, painter.between(0.4, 0.65))
    shape, segment = ((fir, PLANT), (round_tree, PLANT), (boulder, STONE))[kind]
    painter.paint_body(shape, column, distance, radius, (colour, colour * np.float32(0.6)), speckles, segment)


def ball(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - 0.86


def box(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - 0.72


def triangle(u: Floats, v: Floats) -> Floats:
    return np.maximum(0.866 * np.abs(u) - 0.5 * v, v) - 0.45


def ring(u: Floats, v: Floats) -> Floats:
    return np.abs(np.hypot(u, v) - 0.64) - 0.25


def cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.86, b - 0.3), np.maximum(a - 0.3, b - 0.86))


def star(u: Floats, v: Floats) -> Floats:
    """Five points: the sectors are folded onto one, where the edge is a straight line from tip to notch."""
    sector = math.pi / 5
    angle = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector)
    radius, tip, notch = np.hypot(u, v), 0.98, 0.42
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    across, along = tip - notch * math.cos(sector), notch * math.sin(sector)
    return ((x - tip) * along + y * across) / math.hypot(across, along)


def flower(u: Floats, v: Floats) -> Floats:
    petals = np.sqrt(np.abs(np.cos(4 * np.arctan2(u, -v))))
    return 0.8 * (np.hypot(u, v) - 0.6 - 0.3 * petals)


def crescent(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.hypot(u, v) - 0.88, 0.62 - np.hypot(u - 0.42, v + 0.12))


def bars(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(np.abs(u) - 0.46) - 0.24, np.abs(v) - 0.84)


def hourglass(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(v) - 0.84, (np.abs(u) - 0.1 - 0.75 * np.abs(v)) * 0.8)


def fir(u: Floats, v: Floats) -> Floats:
    needles = np.maximum((np.abs(u) - 0.32 * (v + 0.95) - 0.1 * (3 * v % 1)) * 0.9, v - 0.55)
    return np.minimum(np.maximum(needles, -1 - v), trunk(u, v))


def round_tree(u: Floats, v: Floats) -> Floats:
    return np.minimum(np.hypot(u, v + 0.3) - 0.6, trunk(u, v))


def trunk(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u) - 0.1, np.abs(v - 0.45) - 0.42)


def boulder(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.hypot(u * 0.8, v * 1.25 - 0.25) - 0.62, v - 0.42)


# Signed distances, about 1 a unit near the edge: negative inside. Their order is the order of the classes.
SHAPES: dict[str, Field] = {
    shape.__name__: shape
    for shape in (ball, box, triangle, ring, cross, star, flower, crescent, bars, hourglass)  #
}


def smooth(u: Floats, v: Floats) -> Floats:
    return np.zeros_like(u)


def stripes(u: Floats, v: Floats) -> Floats:
    return np.clip(4 * np.sin(9 * v) + 0.5, 0, 1)


def checks(u: Floats, v: Floats) -> Floats:
    return np.clip(6 * np.sin(7 * u) * np.sin(7 * v) + 0.5, 0, 1)


def dots(u: Floats, v: Floats) -> Floats:
    return np.clip(5 * (np.cos(8 * u) + np.cos(8 * v) - 0.9), 0, 1)


def rays(u: Floats, v: Floats) -> Floats:
    return np.clip(4 * np.sin(7 * np.arctan2(v, u)) + 0.5, 0, 1)


def speckles(u: Floats, v: Floats) -> Floats:
    return np.clip(0.5 + 0.5 * np.sin(23 * u + 5 * np.sin(17 * v)) * 0.54, 0, 1)


# How much of the second colour shows.
TEXTURES: dict[str, Field] = {texture.__name__: texture for texture in (smooth, stripes, checks, dots, rays)}
