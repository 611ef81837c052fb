"""The kernels of ``photometric_fused``, in Triton. Every program works on one crop, whose parameters are its branches.

A crop is read twice, once for the mean gray that contrast needs and once for the colours; what is blurred goes through
memory twice more. Compilers that draw the chain up as one expression take a minute for it: four operations at each of
four places.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dinov3.data.augment.photometric import GRAY, MEAN_STEPS, SOLARIZE_FROM

BLOCK = 1024  # pixels a program

# Columns of ``photometric_fused.table``, one row a crop; constants of Triton's, for the kernels read them.
MIRRORED, UPSIDE_DOWN, TURNS, GRAYED, SOLARIZED, BLURRED, ORDER = (tl.constexpr(n) for n in range(7))
JITTERS = tl.constexpr(4)  # operations of the jitter, in the order of JITTER_OPS
BRIGHTNESS, CONTRAST, SATURATION = (tl.constexpr(n) for n in range(3))  # and hue
FACTORS, TAPS_FROM = tl.constexpr(10), tl.constexpr(14)

RED, GREEN, BLUE = (tl.constexpr(weight) for weight in GRAY)
THRESHOLD, STEPS = tl.constexpr(SOLARIZE_FROM), tl.constexpr(MEAN_STEPS)


@triton.jit
def _source(row_of, place, h, w):
    """Where the pixels ``place`` of an oriented crop come from: mirrored, then turned upside down, then by quarters."""
    y, x = place // w, place % w
    turns = tl.load(row_of + TURNS).to(tl.int32)
    row, column = y, x
    if turns == 1:
        row, column = x, w - 1 - y
    if turns == 2:
        row, column = h - 1 - y, w - 1 - x
    if turns == 3:
        row, column = h - 1 - x, y
    if tl.load(row_of + UPSIDE_DOWN) > 0:
        row = h - 1 - row
    if tl.load(row_of + MIRRORED) > 0:
        column = w - 1 - column
    return row * w + column


@triton.jit
def _unit(pointer, inside):
    return tl.div_rn(tl.load(pointer, mask=inside, other=0).to(tl.float32), 255.0)


@triton.jit
def _luma(red, green, blue):
    return red * RED + green * GREEN + blue * BLUE


@triton.jit
def _clamped(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _channel(k, value, chroma):
    """The hexagon of HSV as one formula, as in ``photometric``."""
    k = (k - tl.floor(k)) * 6
    return value - _clamped(2 - tl.abs(k - 2)) * chroma


@triton.jit
def _turned_hue(red, green, blue, turns):
    """The hue moved by ``turns`` in HSV, keeping the largest and the smallest channel value."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = tl.where(is_red, green - blue, tl.where(is_green, blue - red, red - green))
    sector = tl.where(is_red, 0.0, tl.where(is_green, 2.0, 4.0))
    hue = tl.div_rn(tl.div_rn(difference, tl.maximum(chroma, 1e-12)) + sector, 6.0) + turns
    return (
        _channel(hue + 5 / 6, value, chroma),
        _channel(hue + 3 / 6, value, chroma),
        _channel(hue + 1 / 6, value, chroma),
    )


@triton.jit
def _jittered(red, green, blue, row_of, mean, first, last):
    """The operations at the places ``first`` to ``last`` (exclusive) of this crop's order."""
    for place in range(first, last):
        operation = tl.load(row_of + ORDER + place).to(tl.int32)
        factor = tl.load(row_of + FACTORS + operation)
        if operation == BRIGHTNESS:
            red, green, blue = _clamped(red * factor), _clamped(green * factor), _clamped(blue * factor)
        elif operation == CONTRAST:
            flat = mean * (1 - factor)
            red, green, blue = (
                _clamped(red * factor + flat),
                _clamped(green * factor + flat),
                _clamped(blue * factor + flat),
            )
        elif operation == SATURATION:
            flat = _luma(red, green, blue) * (1 - factor)
            red, green, blue = (
                _clamped(red * factor + flat),
                _clamped(green * factor + flat),
                _clamped(blue * factor + flat),
            )
        else:
            red, green, blue = _turned_hue(red, green, blue, factor)
    return red, green, blue


@triton.jit
def _contrast_mean(crops, values, means, h: tl.constexpr, w: tl.constexpr, COLUMNS: tl.constexpr, SIZE: tl.constexpr):
    """Mean gray of one crop when it is contrast's turn."""
    n = tl.program_id(0).to(tl.int64)
    row_of = values + n * COLUMNS
    if tl.load(row_of + ORDER) >= 0:
        turn = 0  # contrast's place
        for place in range(JITTERS):
            if tl.load(row_of + ORDER + place).to(tl.int32) == CONTRAST:
                turn = place
        total = tl.zeros((SIZE,), tl.int64)
        for start in range(0, h * w, SIZE):
            place_of = start + tl.arange(0, SIZE)
            inside = place_of < h * w
            pointer = crops + (n * h * w + _source(row_of, place_of, h, w)) * 3
            red, green, blue = _unit(pointer, inside), _unit(pointer + 1, inside), _unit(pointer + 2, inside)
            red, green, blue = _jittered(red, green, blue, row_of, 0.0, 0, turn)
            levels = tl.floor(_luma(red, green, blue) * STEPS + 0.5).to(tl.int64)
            total += tl.where(inside, levels, 0)
        mean = tl.sum(total).to(tl.float64) / (h * w) / STEPS
        tl.store(means + n, mean.to(tl.float32))


@triton.jit
def _finished(x, row_of, mean, std, RECOLORS: tl.constexpr):
    """Solarised, if the crop is, and normalised."""
    if RECOLORS:  # noqa: SIM102 the outer one is decided when the kernel is compiled
        if tl.load(row_of + SOLARIZED) > 0:
            x = tl.where(x >= THRESHOLD, 1 - x, x)
    return tl.div_rn(x - mean, std)


@triton.jit
def _colours(
    crops,
    values,
    means,
    mean,
    std,
    out,
    unfinished,
    h: tl.constexpr,
    w: tl.constexpr,
    channels: tl.constexpr,
    COLUMNS: tl.constexpr,
    RECOLORS: tl.constexpr,
    RGB: tl.constexpr,
    SIZE: tl.constexpr,
):
    """A block of one crop, oriented and recoloured: finished, or left for ``_blurred`` in ``unfinished``."""
    n = tl.program_id(0).to(tl.int64)
    row_of = values + n * COLUMNS
    place = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = place < h * w
    source = crops + (n * h * w + _source(row_of, place, h, w)) * channels
    target = n * channels * h * w + place
    blurs = RECOLORS and tl.load(row_of + BLURRED) > 0
    if RECOLORS and RGB:
        red, green, blue = _unit(source, inside), _unit(source + 1, inside), _unit(source + 2, inside)
        if tl.load(row_of + ORDER) >= 0:
            red, green, blue = _jittered(red, green, blue, row_of, tl.load(means + n), 0, JITTERS)
        if tl.load(row_of + GRAYED) > 0:
            gray = _luma(red, green, blue)
            red, green, blue = gray, gray, gray
        if blurs:
            tl.store(unfinished + target, red, mask=inside)
            tl.store(unfinished + target + h * w, green, mask=inside)
            tl.store(unfinished + target + 2 * h * w, blue, mask=inside)
        else:
            kind = out.dtype.element_ty
            red = _finished(red, row_of, tl.load(mean), tl.load(std), True)
            green = _finished(green, row_of, tl.load(mean + 1), tl.load(std + 1), True)
            blue = _finished(blue, row_of, tl.load(mean + 2), tl.load(std + 2), True)
            tl.store(out + target, red.to(kind), mask=inside)
            tl.store(out + target + h * w, green.to(kind), mask=inside)
            tl.store(out + target + 2 * h * w, blue.to(kind), mask=inside)
    else:
        for channel in range(channels):
            x = _unit(source + channel, inside)
            if blurs:
                tl.store(unfinished + target + channel * h * w, x, mask=inside)
            else:
                x = _finished(x, row_of, tl.load(mean + channel), tl.load(std + channel), RECOLORS)
                tl.store(out + target + channel * h * w, x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _blurred(
    source,
    target,
    values,
    mean,
    std,
    h: tl.constexpr,
    w: tl.constexpr,
    channels: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    ALONG_ROWS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """One of the two passes over a plane of a blurred crop, borders mirrored; the second finishes it."""
    plane = tl.program_id(0).to(tl.int64)
    n, channel = plane // channels, plane % channels
    row_of = values + n * COLUMNS
    if tl.load(row_of + BLURRED) > 0:
        place = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
        inside = place < h * w
        y, x = place // w, place % w
        total = tl.zeros((SIZE,), tl.float32)
        for tap in range(TAPS):
            row, column = y, x
            if ALONG_ROWS:
                column = tl.abs(x + tap - TAPS // 2)
                column = tl.minimum(column, 2 * (w - 1) - column)
            else:
                row = tl.abs(y + tap - TAPS // 2)
                row = tl.minimum(row, 2 * (h - 1) - row)
            there = tl.load(source + plane * h * w + row * w + column, mask=inside, other=0.0)
            total += there * tl.load(row_of + TAPS_FROM + tap)
        if not ALONG_ROWS:
            total = _finished(total, row_of, tl.load(mean + channel), tl.load(std + channel), True)
        tl.store(target + plane * h * w + place, total.to(target.dtype.element_ty), mask=inside)


def launch(
    crops: Tensor, values: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, *, recolors: bool, blurs: bool
) -> Tensor:
    """``crops [N, h, w, C]`` uint8, contiguous, after everything their row of ``values`` says: ``[N, C, h, w]``.

    ``recolors``: colours and blur too, not the orientation alone. ``blurs``: whether any crop is blurred.
    """
    with torch.cuda.device_of(crops):  # triton starts kernels on the current device
        return _launch(crops, values, mean, std, dtype, recolors=recolors, blurs=blurs)


def _launch(
    crops: Tensor, values: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, *, recolors: bool, blurs: bool
) -> Tensor:
    n, h, w, channels = crops.shape
    out = torch.empty(n, channels, h, w, dtype=dtype, device=crops.device)
    columns, rgb = values.shape[1], channels == 3
    means = torch.empty(n, dtype=torch.float32, device=crops.device)
    blocks = triton.cdiv(h * w, BLOCK)
    size: dict[str, Any] = {"COLUMNS": columns, "SIZE": BLOCK}
    blurs = blurs and recolors
    first, second = (torch.empty_like(out, dtype=torch.float32) if blurs else out for _ in range(2))
    if recolors and rgb:
        _contrast_mean[(n,)](crops, values, means, h, w, **size)
    # crops first: CUDA takes at most 65,535 of the second axis, and 4,096 images have 98,304 planes of local crops
    _colours[(n, blocks)](
        crops, values, means, mean, std, out, first, h, w, channels, RECOLORS=recolors, RGB=rgb, **size
    )
    if blurs:
        shape, taps = (n * channels, blocks), columns - TAPS_FROM.value
        _blurred[shape](first, second, values, mean, std, h, w, channels, TAPS=taps, ALONG_ROWS=True, **size)
        _blurred[shape](second, out, values, mean, std, h, w, channels, TAPS=taps, ALONG_ROWS=False, **size)
    return out
