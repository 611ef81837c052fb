"""How much to keep: the smallest part that holds a share of the energy."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.compress.errors import CompressError

LEAST = 1e-6  # a share below it is taken for it


def check_share(share: float, name: str) -> float:
    """``share``, at least LEAST; CompressError outside (0, 1]."""
    if not 0.0 < share <= 1.0:
        raise CompressError(f"{name} {share:g}: a share of the energy, above 0 and at most 1")
    return max(share, LEAST)


def smallest_part(energies: Tensor, share: float) -> int:
    """How many of the largest ``energies`` [n] sum up to ``share`` of all: at least 1, and all of them at 1.

    1 is tested for, not computed: a rounded sum of a steep spectrum reaches its total before its end.
    """
    if check_share(share, "share") == 1.0:
        return len(energies)
    falling = energies.double().sort(descending=True).values
    total = falling.sum()
    if total <= 0:
        return 1
    reached = (falling.cumsum(0) / total >= max(share, LEAST)).nonzero()
    return int(reached[0]) + 1 if len(reached) else len(energies)


def kept_by_energy(energies: Tensor, share: float, multiple: int = 1) -> Tensor:
    """Rising indices of the smallest part of ``energies`` [n] with ``share`` of the total; of equal ones the first.

    ``multiple``: their number is rounded up to a multiple of it, at most n.
    """
    count = rounded(smallest_part(energies, share), len(energies), multiple)
    order = energies.double().sort(descending=True, stable=True).indices
    return order[:count].sort().values


def rounded(count: int, of: int, multiple: int) -> int:
    """``count`` rounded up to a multiple, at most ``of``."""
    return min(-(-count // multiple) * multiple, of)


def rank_by_energy(weight: Tensor, share: float) -> int:
    """The smallest rank whose squared singular values hold ``share`` of all those of ``weight`` [out, in]."""
    return smallest_part(torch.linalg.svdvals(weight.double()).square(), share)
