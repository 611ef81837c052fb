"""One budget over all layers: from curves of error against cost, the cheapest set of options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dinov3.compress.errors import CompressError

HALVINGS = 60


class Option(NamedTuple):
    """One width or rank of one part of a model."""

    cost: float
    error: float
    choice: Any  # what whoever made the curve needs to carry it out


Curve = Sequence[Option]  # of one part: from the whole (first) to the least


def allocate(curves: Sequence[Curve], budget: float) -> list[Option]:
    """One option a curve, with costs of at most ``budget`` together and errors as small as a Lagrangian finds them.

    At a price of cost each curve has a best option by itself; the price is bisected until the costs fit, then the room
    that is left goes to the options that repair most error for their cost. CompressError when even the least is too much.
    """
    least = sum(min(option.cost for option in curve) for curve in curves)
    if least > budget:
        raise CompressError(f"the budget of {budget:.4g} is below the least that can be left, {least:.4g}")
    costs = [np.array([option.cost for option in curve]) for curve in curves]
    errors = [np.array([option.error for option in curve]) for curve in curves]

    def chosen(price: float) -> list[int]:
        return [int(np.argmin(e + price * c)) for e, c in zip(errors, costs, strict=True)]

    def total(picks: list[int]) -> float:
        return float(sum(c[i] for c, i in zip(costs, picks, strict=True)))

    picks = chosen(0.0)
    if total(picks) > budget:
        low, high = 0.0, 1e-12
        while total(chosen(high)) > budget:
            low, high = high, high * 10
            if high > 1e30:  # errors that no price outweighs: the cheapest option of each
                break
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if total(chosen(middle)) > budget else (low, middle)
        picks = chosen(high)
        if total(picks) > budget:
            picks = [int(c.argmin()) for c in costs]
    return [curve[i] for curve, i in zip(curves, _filled(costs, errors, picks, budget), strict=True)]


def _filled(costs: list[Any], errors: list[Any], picks: list[int], budget: float) -> list[int]:
    """Spend what is left, the best repair for its cost first."""
    picks = list(picks)
    room = budget - sum(c[i] for c, i in zip(costs, picks, strict=True))
    while True:
        best: tuple[float, int, int] | None = None
        for part, (c, e) in enumerate(zip(costs, errors, strict=True)):
            more, gain = c - c[picks[part]], e[picks[part]] - e
            for option in np.flatnonzero((more <= room) & (gain > 0)):
                rate = float(gain[option] / max(more[option], 1e-9))
                if best is None or rate > best[0]:
                    best = (rate, part, int(option))
        if best is None:
            return picks
        room -= costs[best[1]][best[2]] - costs[best[1]][picks[best[1]]]
        picks[best[1]] = best[2]
