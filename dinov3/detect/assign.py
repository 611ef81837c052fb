"""Which box each place answers for (Tian et al. 2019, FCOS, section 3; centre sampling as in its later code)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.detect.views import Truth

RADIUS = 1.5  # strides around a box's centre within which places answer for it
SHORTEST, LONGEST = 4.0, 8.0  # strides: the range of a level's largest box side, FCOS's 64 .. 128 px at a stride of 16
NOTHING, UNKNOWN = -1, -2


class Assigned(NamedTuple):
    """Of P places."""

    box: Tensor  # [P] int64: the number of a box, NOTHING, or UNKNOWN: inside an ignored one
    sides: Tensor  # [P, 4] px to the left, top, right and bottom of that box; of no meaning without one


def assign(truth: Truth, places: Tensor, levels: list[int], strides: list[float]) -> Assigned:
    """Of the boxes of one view and ``places [P, 2]``, ``levels`` of them in each level.

    A place answers for a box when it lies in it, at most RADIUS strides from its centre along either axis, and the longest of
    its four sides is in the range of its level; of several such boxes for the one of the smallest area.
    """
    stride = _spread([*strides], levels, places)  # [P]
    low = _spread([0.0, *(SHORTEST * one for one in strides[1:])], levels, places)
    high = _spread([*(LONGEST * one for one in strides[:-1]), float("inf")], levels, places)
    counted = ~truth.ignored
    if not len(truth.corners):
        return Assigned(torch.full((len(places),), NOTHING, device=places.device), places.new_zeros(len(places), 4))
    x, y = places[:, None, 0], places[:, None, 1]  # [P, 1]
    left, top, right, bottom = truth.corners.T[:, None]  # [1, n] each
    sides = torch.stack([x - left, y - top, right - x, bottom - y], dim=-1)  # [P, n, 4]
    inside = sides.amin(-1) > 0
    off = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
    longest = sides.amax(-1)
    fits = inside & (off < RADIUS * stride[:, None]) & (longest >= low[:, None]) & (longest <= high[:, None])
    area = ((right - left) * (bottom - top)).expand(fits.shape)
    area = torch.where(fits & counted, area, torch.inf)
    least, box = area.min(dim=1)
    unknown = (inside & truth.ignored).any(1)
    box = torch.where(least.isfinite(), box, torch.where(unknown, UNKNOWN, NOTHING))
    return Assigned(box, sides[torch.arange(len(places), device=places.device), box.clamp_min(0)])


def _spread(values: list[float], levels: list[int], places: Tensor) -> Tensor:
    """One value a level as one a place ``[P]``."""
    return torch.cat([places.new_full((n,), value) for value, n in zip(values, levels, strict=True)])


def centerness(sides: Tensor) -> Tensor:
    """``[..., 4]`` to ``[...]``: sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), 1 in the middle of a box (equation 3)."""
    across, down = sides[..., [0, 2]], sides[..., [1, 3]]
    return (across.amin(-1) / across.amax(-1) * (down.amin(-1) / down.amax(-1))).sqrt()
