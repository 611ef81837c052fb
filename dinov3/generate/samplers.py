"""From noise at t = 1 to an image at t = 0 along a velocity field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]  # (z [N, ...], t []) -> velocity like z
Method = Literal["euler", "heun"]
METHODS: tuple[Method, ...] = ("euler", "heun")


def sample_times(steps: int, *, device: torch.device | str = "cpu") -> Tensor:
    """``[steps + 1]`` float64 from 1 to 0 in equal steps. ValueError for fewer than one step."""
    if steps < 1:
        raise ValueError(f"{steps} steps: at least 1")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)


def trajectory(field: Field, noise: Tensor, times: Tensor, method: Method = "euler") -> Iterator[Tensor]:
    """``noise``, then the state after each step; ``times`` [n + 1] fall. ValueError for an unknown method.

    Heun asks the field twice a step; twice the steps leave a quarter of the error, with Euler a half. Its last step is
    Euler's: a field may be singular at t = 0, where the line has arrived (as in Karras et al. 2022).
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: choose {', '.join(METHODS)}")
    z = noise
    yield z
    for now, then in pairwise(times):
        # a Python number keeps the format of z
        step = float(then - now)
        slope = field(z, now)
        if method == "heun" and float(then) > 0:
            slope = (slope + field(z + step * slope, then)) / 2
        z = z + step * slope
        yield z


def sample(field: Field, noise: Tensor, steps: int, method: Method = "euler") -> Tensor:
    """The state at t = 0 that ``noise [N, ...]`` at t = 1 leads to, in ``steps`` equal steps."""
    for z in trajectory(field, noise, sample_times(steps, device=noise.device), method):
        found = z
    return found
