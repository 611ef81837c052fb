"""``photometric.render`` as one compiled function from uint8 to the model's number format.

The operators of ``photometric`` are many and short: 1,719 launches and 136 GB for 256 images. Here every crop goes through
every operation, as numbers in registers, and takes the result only where its parameters say so: the four operations of
the jitter are computed at each of the four places and one is chosen, which costs less than a second pass over memory. A
crop is read twice, once for the mean gray that contrast needs and once for the colours; blur is two passes over floats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.augment import photometric
from dinov3.data.augment.augmentation import JITTER_OPS, CropParams
from dinov3.data.augment.photometric import GRAY, MEAN_STEPS, RADIUS, SOLARIZE_FROM, TAPS, Normalization, blur_weights
from dinov3.distributed.transfer import send

BRIGHTNESS, CONTRAST, SATURATION, HUE = (JITTER_OPS.index(n) for n in ("brightness", "contrast", "saturation", "hue"))
NEVER = -1.0  # in place of an operation, for crops that are not jittered

# Columns of the table of parameters, one row a crop.
MIRRORED, UPSIDE_DOWN, TURNS, GRAYED, SOLARIZED = range(5)
ORDER, FACTORS = 5, 5 + len(JITTER_OPS)
TAPS_FROM = FACTORS + len(JITTER_OPS)
COLUMNS = TAPS_FROM + TAPS

Planes = tuple[Tensor, ...]  # C times [N, h, w]


Function = Callable[..., Tensor]


def render(
    crops: Tensor,
    params: CropParams,
    normalization: Normalization,
    *,
    photometric: bool = True,
    clean_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As ``photometric.render``, up to rounding. Crops with stain normalisation are left to the operators there."""
    return apply(crops, params, normalization, compiled(), recolors=photometric, clean_size=clean_size)


def apply(
    crops: Tensor,
    params: CropParams,
    normalization: Normalization,
    functions: tuple[Function, Function],
    *,
    recolors: bool = True,
    clean_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``render`` with these forms of ``changed`` and ``upright``."""
    if not len(crops) or (recolors and params.stained.any()):
        return photometric.render(crops, params, normalization, photometric=recolors, clean_size=clean_size)
    whole, plain = functions
    values = send(torch.from_numpy(table(params)), crops.device)
    mean, std, dtype = normalization.mean, normalization.std, normalization.dtype
    blurs = bool((params.sigma > 0).any())
    out = whole(crops, values, mean, std, dtype, blurs) if recolors else plain(crops, values, mean, std, dtype)
    if clean_size is None:
        return out, None
    if crops.shape[1:3] == (clean_size, clean_size):
        return out, plain(crops, values, mean, std, dtype)
    clean = torch.empty(*out.shape[:2], clean_size, clean_size, dtype=dtype, device=crops.device)
    unit = plain(crops, values, torch.zeros_like(mean), torch.ones_like(std), torch.float32)
    normalization.write(photometric.resized(unit, clean_size), clean)
    return out, clean


def table(params: CropParams) -> NDArray[np.float32]:
    """All parameters of N crops as one matrix ``[N, COLUMNS]``, so that they travel in one piece."""
    values = np.zeros((len(params.gray), COLUMNS), dtype=np.float32)
    values[:, MIRRORED], values[:, UPSIDE_DOWN], values[:, TURNS] = params.mirrored, params.upside_down, params.turns
    values[:, GRAYED], values[:, SOLARIZED] = params.gray, params.solarized
    values[:, ORDER:FACTORS] = np.where(params.jittered[:, None], params.order, NEVER)
    values[:, FACTORS:TAPS_FROM] = params.factors
    values[:, TAPS_FROM + RADIUS] = 1.0  # no blur
    blurred = params.sigma > 0
    values[blurred, TAPS_FROM:] = blur_weights(params.sigma[blurred])
    return values


@cache
def compiled(backend: str = "inductor") -> tuple[Function, Function]:
    """(``changed``, ``upright``), each one graph for every size of crops."""
    whole: Function = torch.compile(changed, fullgraph=True, dynamic=False, backend=backend)
    plain: Function = torch.compile(upright, fullgraph=True, dynamic=False, backend=backend)
    return whole, plain


def upright(crops: Tensor, values: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """``crops [N, h, w, C]`` uint8, oriented and normalised: ``[N, C, h, w]``."""
    return ((torch.stack(_oriented(crops, values), dim=1) - mean) / std).to(dtype)


def changed(crops: Tensor, values: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, blurs: bool) -> Tensor:
    """``crops [N, h, w, C]`` uint8 after everything their row of ``values`` says, normalised: ``[N, C, h, w]``."""
    planes = _oriented(crops, values)
    if len(planes) == 3:  # colour operations are off for other images
        planes = _jittered(planes, values, _contrast_mean(planes, values))
        gray, grayed = _luma(planes), _column(values, GRAYED) > 0
        planes = tuple(torch.where(grayed, gray, plane) for plane in planes)
    x = torch.stack(planes, dim=1)  # [N, C, h, w]
    x = _blurred(x, values) if blurs else x
    x = torch.where((values[:, SOLARIZED, None, None, None] > 0) & (x >= SOLARIZE_FROM), 1 - x, x)
    return ((x - mean) / std).to(dtype)


def _column(values: Tensor, number: int) -> Tensor:
    return values[:, number, None, None]  # [N, 1, 1]


def _oriented(crops: Tensor, values: Tensor) -> Planes:
    """Mirrored, then turned upside down, then by quarters: where each pixel comes from, and one gather."""
    n, h, w, channels = crops.shape
    y = torch.arange(h, device=crops.device)[None, :, None]
    x = torch.arange(w, device=crops.device)[None, None, :]
    turns = _column(values, TURNS)
    row = torch.where(turns == 0, y, torch.where(turns == 1, x, torch.where(turns == 2, h - 1 - y, h - 1 - x)))
    column = torch.where(turns == 0, x, torch.where(turns == 1, w - 1 - y, torch.where(turns == 2, w - 1 - x, y)))
    row = torch.where(_column(values, UPSIDE_DOWN) > 0, h - 1 - row, row)
    column = torch.where(_column(values, MIRRORED) > 0, w - 1 - column, column)
    crop = torch.arange(n, device=crops.device)[:, None, None]
    return tuple(crops[crop, row, column, c].to(torch.float32) / 255 for c in range(channels))


def _luma(planes: Planes) -> Tensor:
    red, green, blue = planes
    return red * GRAY[0] + green * GRAY[1] + blue * GRAY[2]


def _contrast_mean(planes: Planes, values: Tensor) -> Tensor:
    """Mean gray ``[N, 1, 1]`` when it is contrast's turn: after the operations that stand before it in a crop's order."""
    waiting = torch.ones_like(_column(values, ORDER), dtype=torch.bool)
    for place in range(len(JITTER_OPS)):
        waiting = waiting & (_column(values, ORDER + place) != CONTRAST)
        after = _at_place(planes, values, place, None)
        planes = tuple(torch.where(waiting, new, old) for new, old in zip(after, planes, strict=True))
    levels = torch.round(_luma(planes) * MEAN_STEPS).flatten(1)  # [N, h*w] whole numbers
    mean = levels.sum(1, dtype=torch.float64) / (MEAN_STEPS * levels.shape[1])
    return mean.to(torch.float32)[:, None, None]


def _jittered(planes: Planes, values: Tensor, mean: Tensor) -> Planes:
    for place in range(len(JITTER_OPS)):
        planes = _at_place(planes, values, place, mean)
    return planes


def _at_place(planes: Planes, values: Tensor, place: int, mean: Tensor | None) -> Planes:
    """The operation that stands at ``place`` of each crop's order; contrast is left out without a ``mean``."""
    chosen = _column(values, ORDER + place)

    def factor(operation: int) -> Tensor:
        return _column(values, FACTORS + operation)

    def take(operation: int, new: Planes, old: Planes) -> Planes:
        return tuple(torch.where(chosen == operation, a, b) for a, b in zip(new, old, strict=True))

    gray, bright, pale = _luma(planes), factor(BRIGHTNESS), factor(SATURATION)
    out = take(BRIGHTNESS, tuple((p * bright).clamp(0, 1) for p in planes), planes)
    if mean is not None:
        contrast = factor(CONTRAST)
        flat = mean * (1 - contrast)
        out = take(CONTRAST, tuple((p * contrast + flat).clamp(0, 1) for p in planes), out)
    out = take(SATURATION, tuple((p * pale + gray * (1 - pale)).clamp(0, 1) for p in planes), out)
    return take(HUE, _turned_hue(planes, factor(HUE)), out)


def _turned_hue(planes: Planes, turns: Tensor) -> Planes:
    """The hue moved by ``turns`` in HSV, keeping the largest and the smallest channel value."""
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    sector = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    hue = (difference / chroma.clamp(min=1e-12) + sector) / 6 + turns
    return tuple(_channel(hue + offset, value, chroma) for offset in (5 / 6, 3 / 6, 1 / 6))


def _channel(k: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """The hexagon of HSV as one formula, as in ``photometric``."""
    k = (k - k.floor()) * 6
    return value - (2 - (k - 2).abs()).clamp(0, 1) * chroma


def _blurred(x: Tensor, values: Tensor) -> Tensor:
    """Separable, as in ``photometric``; a crop that is not blurred has the weight 1 in the middle and keeps its pixels."""
    weights = values[:, TAPS_FROM:, None, None, None].unbind(1)  # TAPS times [N, 1, 1, 1]
    for dim, padding in ((-1, (RADIUS, RADIUS, 0, 0)), (-2, (0, 0, RADIUS, RADIUS))):
        padded, size = F.pad(x, padding, mode="reflect"), x.shape[dim]
        out = padded.narrow(dim, 0, size) * weights[0]
        for tap in range(1, TAPS):
            out = out + padded.narrow(dim, tap, size) * weights[tap]
        x = out
    return x
