"""Crops as the model takes them: oriented, colours changed, normalised. Batched, float32, the same code on every device.

Each operation touches only the crops that want it. Which ones those are is known on the host, so a GPU is never asked
and never waited for. Operations clamp to [0, 1] after each step and follow torchvision's definitions on floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.augment.augmentation import JITTER_OPS, CropParams
from dinov3.data.augment.stain import normalize_stain
from dinov3.distributed.transfer import send

RADIUS = 4  # of the blur kernel: 9 taps at every crop size and sigma, as upstream
TAPS = 2 * RADIUS + 1
GRAY = (0.2989, 0.587, 0.114)  # ITU-R BT.601 luma
SOLARIZE_FROM = 128 / 255
MEAN_STEPS = 65536  # gray levels of a crop's mean: whole numbers add up exactly in any order
# On a CPU, crops of so many pixels in all are worked on together, and the longest operation on so many at a time:
# more falls out of the cache, fewer drown in the cost of starting operations.
CHUNK_PIXELS, BAND_PIXELS = 2**17, 2**15

Change = Callable[[Tensor, Tensor], None]  # overwrites crops [N, C, h, w], given factors [N, TAPS]


class Normalization:
    """Pixels in [0, 1] to what the model is given: minus ``mean``, over ``std`` (one of each a channel), as ``dtype``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device) -> None:
        shape = (1, -1, 1, 1)
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).reshape(shape)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).reshape(shape)
        self.dtype = dtype

    def write(self, x: Tensor, out: Tensor) -> None:
        """Normalise ``x [N, C, h, w]``, which is overwritten, into ``out``."""
        torch.div(x.sub_(self.mean), self.std, out=out)


def render(
    crops: Tensor,
    params: CropParams,
    normalization: Normalization,
    *,
    photometric: bool = True,
    clean_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(crops ``[N, C, h, w]``, clean crops ``[N, C, hc, hc]``) from ``crops [N, h, w, C]`` uint8.

    All are oriented and normalised; without ``photometric`` that is all. Clean crops are made when ``clean_size``
    (hc, in pixels) is given, by antialiased bicubic interpolation when it is another size.
    """
    n, h, w, channels = crops.shape
    device, dtype = crops.device, normalization.dtype
    out = torch.empty(n, channels, h, w, dtype=dtype, device=device)
    clean = None if clean_size is None else torch.empty(n, channels, clean_size, clean_size, dtype=dtype, device=device)
    step = max(1, n if device.type != "cpu" else CHUNK_PIXELS // (h * w))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        upright = crops[rows].permute(0, 3, 1, 2).contiguous()  # [n, C, h, w] uint8
        oriented_by(params[rows], upright)
        if clean is not None:
            normalization.write(resized(to_unit(upright), clean.shape[-1]), clean[rows])
        x = to_unit(upright)
        if photometric:
            recolored_by(params[rows], x)
        normalization.write(x, out[rows])
    return out, clean


def to_unit(x: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return x.to(torch.float32).div_(255)


def resized(x: Tensor, size: int) -> Tensor:
    """``x [N, C, h, w]`` in [0, 1] as squares of ``size``; bicubic overshoot is cut off."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp_(0, 1)


def oriented_by(params: CropParams, crops: Tensor) -> Tensor:
    """``crops [N, C, h, w]``, flipped and turned in place. They must be square if any is turned."""
    run(orientation_plan(params), crops)
    return crops


def recolored_by(params: CropParams, x: Tensor) -> Tensor:
    """``x [N, C, h, w]`` float in [0, 1], changed in place; C is 3 for anything but blur."""
    run(photometric_plan(params), x)
    return x


@dataclass(frozen=True)
class Operation:
    """One change to some crops of a stack."""

    change: Change
    rows: NDArray[np.int64]  # [n] which crops
    factors: NDArray[np.float32]  # [n, TAPS] or narrower


def orientation_plan(params: CropParams) -> list[Operation]:
    """Flips, then quarter turns. Crops are square if any is turned."""
    which = [(_mirror, params.mirrored), (_upside_down, params.upside_down)]
    which += [(turn, params.turns == n) for n, turn in ((1, _turn_left), (2, _turn_around), (3, _turn_right))]
    return [_plain(change, chosen) for change, chosen in which]


def photometric_plan(params: CropParams) -> list[Operation]:
    """Stain, jitter in each crop's own order, then grayscale, blur and solarisation, as upstream."""
    stained = np.flatnonzero(params.stained)
    plan = [Operation(_stain, stained, params.stain_target[stained].astype(np.float32))]
    for place in range(len(JITTER_OPS)):
        for op, name in enumerate(JITTER_OPS):
            rows = np.flatnonzero(params.jittered & (params.order[:, place] == op))
            plan.append(Operation(JITTER[name], rows, params.factors[rows, op : op + 1].astype(np.float32)))
    blurred = np.flatnonzero(params.sigma > 0)
    plan.append(_plain(_grayscale, params.gray))
    plan.append(Operation(_blur, blurred, blur_weights(params.sigma[blurred])))
    plan.append(_plain(_solarize, params.solarized))
    return plan


def _plain(change: Change, chosen: NDArray[np.bool_]) -> Operation:
    rows = np.flatnonzero(chosen)
    return Operation(change, rows, np.zeros((len(rows), 1), dtype=np.float32))


def run(plan: list[Operation], x: Tensor) -> None:
    """Apply ``plan`` to ``x [N, C, h, w]`` in order. Rows and factors travel to its device in one piece each."""
    plan = [operation for operation in plan if len(operation.rows)]
    if not plan:
        return
    ends = np.cumsum([len(operation.rows) for operation in plan])
    factors = np.zeros((ends[-1], TAPS), dtype=np.float32)
    for operation, end in zip(plan, ends, strict=True):
        factors[end - len(operation.rows) : end, : operation.factors.shape[1]] = operation.factors
    rows = send(torch.from_numpy(np.concatenate([operation.rows for operation in plan])), x.device)
    weights = send(torch.from_numpy(factors), x.device)
    for operation, end in zip(plan, ends.tolist(), strict=True):
        start = end - len(operation.rows)
        if len(operation.rows) == len(x):
            operation.change(x, weights[start:end])
        else:
            some = x.index_select(0, rows[start:end])
            operation.change(some, weights[start:end])
            x.index_copy_(0, rows[start:end], some)


def _mirror(x: Tensor, _: Tensor) -> None:
    x.copy_(x.flip(-1))


def _upside_down(x: Tensor, _: Tensor) -> None:
    x.copy_(x.flip(-2))


def _turn_left(x: Tensor, _: Tensor) -> None:
    x.copy_(x.transpose(-2, -1).flip(-2))


def _turn_around(x: Tensor, _: Tensor) -> None:
    x.copy_(x.flip(-2, -1))


def _turn_right(x: Tensor, _: Tensor) -> None:
    x.copy_(x.transpose(-2, -1).flip(-1))


def _one(factors: Tensor, column: int = 0) -> Tensor:
    return factors[:, column, None, None, None]  # [N, 1, 1, 1]


def luma(x: Tensor) -> Tensor:
    """Gray ``[N, 1, h, w]`` of ``x [N, 3, h, w]``."""
    red, green, blue = x.split(1, dim=1)
    return red.mul(GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def _stain(x: Tensor, factors: Tensor) -> None:
    n = x.shape[0] if x.device.type != "cpu" else max(1, BAND_PIXELS // (x.shape[2] * x.shape[3]))
    for some, target in zip(x.split(n), factors.split(n), strict=True):
        normalize_stain(some, target)


def _brightness(x: Tensor, factors: Tensor) -> None:
    x.mul_(_one(factors)).clamp_(0, 1)


def _contrast(x: Tensor, factors: Tensor) -> None:
    levels = luma(x).mul_(MEAN_STEPS).round_().flatten(1)  # [N, h*w] whole numbers
    mean = (levels.sum(1, dtype=torch.float64) / (MEAN_STEPS * levels.shape[1])).float()[:, None, None, None]
    x.mul_(_one(factors)).add_(mean * (1 - _one(factors))).clamp_(0, 1)


def _saturation(x: Tensor, factors: Tensor) -> None:
    gray = luma(x).mul_(1 - _one(factors))
    x.mul_(_one(factors)).add_(gray).clamp_(0, 1)


def _hue(x: Tensor, factors: Tensor) -> None:
    """Turn the hue by ``factors[:, 0]`` in HSV, keeping the largest and the smallest channel value."""
    height = x.shape[2] if x.device.type != "cpu" else max(1, BAND_PIXELS // (x.shape[0] * x.shape[3]))
    for band in x.split(height, dim=2):
        _turn_hue(band, _one(factors))


def _turn_hue(x: Tensor, turns: Tensor) -> None:
    # 1 and 0 as floats instead of torch.where: the vectorised comparisons are five times as fast on a CPU.
    red, green, blue = x.split(1, dim=1)  # [N, 1, h, w]
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    is_red = value.clone().eq_(red)
    is_green = value.clone().eq_(green).mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    sixths = (green - blue).mul_(is_red).add_((blue - red).mul_(is_green)).add_((red - green).mul_(is_blue))
    sixths.div_(chroma.clamp(min=1e-12)).add_(is_green, alpha=2).add_(is_blue, alpha=4)
    hue = sixths.div_(6).add_(turns)
    for channel, offset in ((red, 5 / 6), (green, 3 / 6), (blue, 1 / 6)):
        # The hexagon as one formula: value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (6 * hue + 5, 3, 1) mod 6
        k = hue + offset
        k.sub_(k.floor()).mul_(6)
        channel.copy_(value - k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma))


JITTER: dict[str, Change] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}


def _grayscale(x: Tensor, _: Tensor) -> None:
    x.copy_(luma(x))


def blur_weights(sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian weights ``[N, TAPS]`` that sum to 1, from ``sigma [N]`` in pixels."""
    offsets = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blur(x: Tensor, weights: Tensor) -> None:
    """Separable: along rows, then along columns, borders mirrored without repeating the edge pixel."""
    columns = weights[..., None, None, None].unbind(1)  # TAPS times [N, 1, 1, 1]
    for dim, padding in ((-1, (RADIUS, RADIUS, 0, 0)), (-2, (0, 0, RADIUS, RADIUS))):
        padded, size = F.pad(x, padding, mode="reflect"), x.shape[dim]
        x.zero_()
        for tap, column in enumerate(columns):
            x.addcmul_(padded.narrow(dim, tap, size), column)


def _solarize(x: Tensor, _: Tensor) -> None:
    bright = x.clone().ge_(SOLARIZE_FROM)  # 1 or 0
    x.mul_(bright.mul(-2).add_(1)).add_(bright)  # 1 - x or x, exactly
