"""A small world in perspective: sky, hills, a plain, plants and stones, and one lit, textured object to look at.

Every part is a layer with a colour, a distance and a name, painted from far to near, so the picture, the segmentation
and the depth agree to the pixel. Distance is in heights of the camera: 1 at the bottom edge of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.data.randomness import generator

Floats = NDArray[np.floating[Any]]  # float32
Colour = NDArray[np.floating[Any]]  # [3, 1, 1] in [0, 1]
Field = Callable[[Floats, Floats], Floats]  # a value at each (right, down)

SKY, HILLS, PLAIN, PLANT, STONE, OBJECT = range(6)  # segments; an object of shape s is OBJECT + s
SKY_DISTANCE = 100.0
RIDGES = ((48.0, 0.2), (32.0, 0.13), (20.0, 0.07))  # (distance, height in the picture) of the hills
HAZE_DISTANCE = 22.0  # where two thirds of a colour are lost to the air
NOISE_SIDE = 512  # so fine that the nearest value will do
ROUNDING = 0.45  # width of the rounded edge of a body, in radii

# (zenith, horizon, light, plain, plain's second colour), each as 0xRRGGBB
PALETTES = (
    (0x3A7BD5, 0xCFE8F5, 0xFFF4DC, 0x7FA650, 0xB7B35A),  # noon over meadows
    (0x27406B, 0xF6A66B, 0xFFC58A, 0x8A6B4F, 0xB98A5A),  # evening on a steppe
    (0x5C86C4, 0xF4D9C6, 0xFFE6CC, 0xC8A56A, 0xE3CB94),  # morning in the dunes
    (0x6D7FA0, 0xDDE3EA, 0xE9EEF5, 0xDCE4EC, 0xB3C3D6),  # snow
    (0x1F2A52, 0x7D6FB0, 0xC9C8FF, 0x3D5A5B, 0x56777A),  # blue hour
    (0x4AA3B5, 0xE8F3DF, 0xFFFBE6, 0x5E9C76, 0x9CC08A),  # after rain
    (0x7A4E8C, 0xFFC7A8, 0xFFD9B8, 0x7C5A6E, 0xA87F86),  # heather
)


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it."""

    image: NDArray[np.uint8]  # [H, W, 3]
    segmentation: NDArray[np.uint8]  # [H, W]
    depth: NDArray[np.float32]  # [H, W] distance, 1 at the bottom edge


def rgb(value: int) -> Colour:
    """0xRRGGBB as a colour."""
    return np.array([value >> 16 & 255, value >> 8 & 255, value & 255], dtype=np.float32)[:, None, None] / 255


def vivid(hue: float, saturation: float, value: float) -> Colour:
    """A colour by hue in turns, saturation and value."""
    channels = ((n + 6 * hue) % 6 for n in (5, 3, 1))
    values = [value * (1 - saturation * min(max(min(k, 4 - k), 0), 1)) for k in channels]
    return np.array(values, dtype=np.float32)[:, None, None]


@lru_cache(maxsize=64)
def _feet(shape: Field) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points inside ``shape``."""
    grid = np.linspace(-1, 1, 65, dtype=np.float32)
    u, v = np.meshgrid(grid, grid)
    rows, columns = np.nonzero(shape(u, v) <= 0)
    return grid[columns].astype(np.float64), grid[rows].astype(np.float64)


def foot(shape: Field, turn: float) -> float:
    """How far ``shape``, turned by ``turn``, reaches below its middle."""
    u, v = _feet(shape)
    return float((math.sin(turn) * u + math.cos(turn) * v).max())


@lru_cache(maxsize=1)
def noise_table() -> Floats:
    """Smooth noise ``[NOISE_SIDE, NOISE_SIDE]`` in [0, 1] that repeats at its edges."""
    side = np.fft.fftfreq(NOISE_SIDE) * NOISE_SIDE
    radius = np.hypot(side[:, None], side[None, :])
    amplitude = np.where(radius > 0, (1 + radius) ** -1.4, 0) * (radius < NOISE_SIDE / 10)
    phase = generator(0, "world noise").random((NOISE_SIDE, NOISE_SIDE)) * 2 * np.pi
    values = np.fft.ifft2(amplitude * np.exp(1j * phase)).real
    return ((values.argsort(axis=None).argsort() / values.size).reshape(values.shape)).astype(np.float32)


def noise_at(x: Floats, y: Floats) -> Floats:
    """The noise at these places; one unit is an eighth of its period."""
    step = NOISE_SIDE / 8
    table = noise_table()
    return table[(y * step).astype(np.int64) % NOISE_SIDE, (x * step).astype(np.int64) % NOISE_SIDE]


class Painter:
    """Layers one scene. Rows and columns are in units of the picture's height, from the top left corner.

    Numbers drawn from ``rng`` become Python floats at once: a float64 scalar would make every array it meets float64.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        palette = PALETTES[int(rng.integers(len(PALETTES)))]
        self.zenith, self.air, self.light, self.plain, self.plain_2 = map(rgb, palette)
        self.horizon = self.between(0.38, 0.58)
        self.sun = self.between(0.05, 0.95)  # column
        direction = np.array([2.2 * (self.sun - 0.5), -0.8, 0.75])  # right, down, to the viewer
        self.to_light: list[float] = (direction / np.linalg.norm(direction)).tolist()
        pixels = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.rows, self.columns = pixels[:, None], pixels[None, :]  # [H, 1], [1, W]
        self.image = np.empty((3, size, size), dtype=np.float32)
        self.segmentation = np.empty((size, size), dtype=np.uint8)
        self.depth = np.empty((size, size), dtype=np.float32)

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def row_at(self, distance: float) -> float:
        """The row where something stands on the plain at this distance."""
        return self.horizon + (1 - self.horizon) / distance

    def hazy(self, colour: Floats, distance: Floats | float) -> Floats:
        """``colour [3, h, w]`` seen through the air."""
        clear = np.exp(np.float32(-1 / HAZE_DISTANCE) * distance)
        return self.air + (colour - self.air) * clear

    def paint_sky(self) -> None:
        """From the zenith's colour to the horizon's, with clouds and the glow of the sun."""
        above = max(1, round(self.horizon * self.size))
        rows = self.rows[:above]
        height = np.clip(1 - rows / self.horizon, 0, 1)  # [above, 1] 1 at the top
        away = 0.35 / (height + 0.12)
        cover, drift_x, drift_y = self.between(0.4, 0.75), self.between(0, 8), self.between(0, 8)
        cloud = noise_at(3.5 * (self.columns - 0.5) * away + drift_x, 2.2 * away + drift_y + 0 * self.columns)
        cloud = np.clip((cloud - cover) * 3, 0, 0.85) * np.clip(height * 4, 0, 1)
        glow = 0.55 * np.exp(-14 * ((self.columns - self.sun) ** 2 + (rows - 0.55 * self.horizon) ** 2))
        sky = self.air + (self.zenith - self.air) * height**0.8  # [3, above, 1]
        sky = sky + (self.light - sky) * cloud
        sky += (self.light - sky) * glow
        self.image[:, :above] = sky
        self.image[:, above:] = self.air
        self.segmentation[:] = SKY
        self.depth[:] = SKY_DISTANCE

    def paint_hills(self) -> None:
        """Three ridges, the farthest palest."""
        tint = vivid(self.between(0, 1), 0.25, 0.35)
        for distance, height in RIDGES:
            ridge = np.full_like(self.columns, 0.55)  # [1, W]
            for height_of_wave, slowest, fastest in ((0.3, 2, 4), (0.18, 5, 9), (0.07, 11, 19)):
                phase = self.between(slowest, fastest) * self.columns + self.between(0, 2 * math.pi)
                ridge += height_of_wave * np.sin(phase)
            top = self.horizon - height * ridge  # [1, W]
            first = max(0, int(top.min() * self.size) - 1)
            rows = slice(first, round(self.horizon * self.size) + 1)
            colour = self.hazy(0.5 * self.plain + 0.5 * tint, distance)
            coverage = (self.rows[rows] - top) * self.size + 0.5
            self._lay(rows, slice(0, None), coverage, colour, distance, HILLS)

    def paint_plain(self) -> None:
        """Ground in perspective with patches of a second colour."""
        start = round(self.horizon * self.size)
        distance = (1 - self.horizon) / (self.rows[start:] - self.horizon)  # [h, 1]
        distance = np.clip(distance, 1, RIDGES[-1][0] - 1)  # it ends at the foot of the hills
        drift_x, drift_y = self.between(0, 8), self.between(0, 8)
        across = (self.columns - 0.5) * distance  # [h, W]
        along = 0.5 * distance + 0 * across
        patches = noise_at(0.9 * across + drift_x, along + drift_y)
        grain = noise_at(7 * across + drift_y, 8 * along + drift_x) - 0.5
        mix = np.clip(3 * patches - 1, 0, 1)
        colour = self.plain + (self.plain_2 - self.plain) * mix + 0.14 * grain / distance
        self.image[:, start:] = self.hazy(colour, distance)
        self.segmentation[start:] = PLAIN
        self.depth[start:] = distance

    def paint_shadow(self, column: float, distance: float, radius: float) -> None:
        """On the plain, away from the sun."""
        row = self.row_at(distance)
        length = (column - self.sun) * 1.2 * radius
        rows, columns = self._span(row, 0.5 * radius), self._span(column + 0.5 * length, 2.2 * radius)
        x = (self.columns[:, columns] - column - 0.5 * length) / (radius * 1.05 + 0.5 * abs(length))
        y = (self.rows[rows] - row) / (0.3 * radius)
        ground = self.segmentation[rows, columns] == PLAIN
        self.image[:, rows, columns] *= 1 - 0.5 * np.clip(1.3 - np.hypot(x, y), 0, 1) * ground

    def paint_body(
        self,
        shape: Field,
        column: float,
        distance: float,
        radius: float,
        colours: tuple[Colour, Colour],
        texture: Field,
        segment: int,
        turn: float = 0.0,
    ) -> None:
        """A body in the form of ``shape``, standing on the plain at ``distance``."""
        row = self.row_at(distance) - foot(shape, turn) * radius
        rows, columns = self._span(row, 1.05 * radius), self._span(column, 1.05 * radius)
        if min(rows.stop - rows.start, columns.stop - columns.start) < 2:
            return  # outside the picture
        x = (self.columns[:, columns] - column) / radius
        y = (self.rows[rows] - row) / radius
        cos, sin = math.cos(turn), math.sin(turn)
        u, v = cos * x + sin * y, cos * y - sin * x  # [h, w]
        outside = shape(u, v)
        rise = np.clip(outside * np.float32(-1 / ROUNDING), 0, 1)
        relief = np.sqrt(rise * (2 - rise))  # a round edge, then flat
        pixel = 1 / (radius * self.size)
        diffuse, highlight = self._lighting(relief, pixel)
        colour = colours[0] + (colours[1] - colours[0]) * texture(u, v)
        shade = self.hazy(colour * (0.6 + 0.4 * self.light) * diffuse + highlight, distance)
        depth = distance * (1 - ROUNDING * radius * relief)
        self._lay(rows, columns, 0.5 - outside / pixel, shade, depth, segment)

    def _lighting(self, relief: Floats, pixel: float) -> tuple[Floats, Floats]:
        """(diffuse, highlight) of a height field."""
        down, right = np.gradient(relief, np.float32(pixel / ROUNDING))
        right_light, down_light, front_light = self.to_light
        facing = (front_light - right_light * right - down_light * down) / np.sqrt(1 + down**2 + right**2)
        facing = np.clip(facing, 0, 1)
        return 0.42 + 0.75 * facing, 0.35 * facing**24

    def _span(self, center: float, reach: float) -> slice:
        first, last = math.floor((center - reach) * self.size), math.ceil((center + reach) * self.size)
        return slice(min(max(first, 0), self.size), min(max(last, 0), self.size))

    def _lay(
        self, rows: slice, columns: slice, coverage: Floats, colour: Floats, depth: Floats | float, segment: int
    ) -> None:
        """Blend ``colour`` in by ``coverage``; a pixel belongs to what covers at least half of it."""
        covered = np.clip(coverage, 0, 1)
        part = self.image[:, rows, columns]
        part += (colour - part) * covered
        inside = covered >= 0.5
        np.copyto(self.segmentation[rows, columns], segment, where=inside)
        np.copyto(self.depth[rows, columns], depth, where=inside)

    def finished(self) -> Scene:
        """The scene, with a little grain."""
        grain = self.rng.standard_normal((self.size, self.size), dtype=np.float32)
        image = np.clip(self.image * 255 + (2 * grain + 0.5), 0, 255).astype(np.uint8)
        return Scene(np.ascontiguousarray(image.transpose(1, 2, 0)), self.segmentation, self.depth)
