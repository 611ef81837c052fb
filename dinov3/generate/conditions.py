"""Which conditions a training sample keeps, so that one model learns all the branches that guidance asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from dinov3.generate.errors import GenerateError

# name -> (the text is dropped, the features are: class token and patches together)
CATEGORIES = {
    "uncond": (True, True),
    "text_only": (False, True),
    "dino_only": (True, False),
    "both": (False, False),
}


@dataclass(frozen=True)
class ConditionShares:
    """The share of samples of each category; one per sample, and they exclude each other. Raises GenerateError."""

    uncond: float = 0.10
    text_only: float = 0.30
    dino_only: float = 0.05
    both: float = 0.55

    def __post_init__(self) -> None:
        shares = self.in_order()
        if not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            told = ", ".join(f"{name} {share:g}" for name, share in zip(CATEGORIES, shares, strict=True))
            raise GenerateError(f"shares of conditions {told}: each from 0 to 1, and 1 in sum")

    def in_order(self) -> list[float]:
        """The shares in the order of ``CATEGORIES``."""
        return [self.uncond, self.text_only, self.dino_only, self.both]

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> ConditionShares:
        """Shares by name. Raises GenerateError for another name, or one that is missing."""
        if set(shares) != set(CATEGORIES):
            raise GenerateError(f"shares of {', '.join(shares)}: give {', '.join(CATEGORIES)}")
        return cls(**shares)


def categories_of(uniform: Tensor, shares: Sequence[float]) -> Tensor:
    """Numbers of categories ``[N]`` int64 of uniform draws ``[N]`` in [0, 1): the first whose summed shares exceed the draw."""
    # The last sum is 1 whatever rounding says: it is left out.
    bounds = torch.tensor(list(accumulate(shares))[:-1], dtype=torch.float64, device=uniform.device)
    found = torch.bucketize(uniform.double(), bounds, right=True)
    # where the last shares are 0, rounding in the sums must not choose them
    return found.clamp(max=max(number for number, share in enumerate(shares) if share > 0))


def drawn_categories(samples: int, shares: ConditionShares, generator: torch.Generator) -> Tensor:
    """Numbers of categories ``[samples]``, from a generator of their own."""
    return categories_of(torch.rand(samples, dtype=torch.float64, generator=generator), shares.in_order())


def dropped(categories: Tensor, names: Sequence[str] = tuple(CATEGORIES)) -> tuple[Tensor, Tensor]:
    """(the text is dropped, the features are), bool ``[N]`` each; ``names`` of the numbers."""
    table = torch.tensor([CATEGORIES[name] for name in names], device=categories.device)[categories.long()]
    return table[:, 0], table[:, 1]
