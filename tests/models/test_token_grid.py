from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dinov3.models.token_grid import resample_tokens

GRIDS = st.tuples(st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=40, deadline=None)
@given(old=GRIDS, new=GRIDS)
def test_resampling_keeps_a_constant_and_moves_a_ramp_by_less_than_half_a_patch(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    constant = torch.tensor([1.5, -2.0]).expand(2, old[0] * old[1], 2)
    assert torch.allclose(resample_tokens(constant, old, new), constant[:, :1], rtol=1e-6)

    def centres(grid: tuple[int, int]) -> Tensor:
        axes = [(torch.arange(side) + 0.5) / side for side in grid]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 2)  # [1, P, 2] of the image

    moved = resample_tokens(centres(old), old, new)
    coarser = torch.tensor([min(a, b) for a, b in zip(old, new, strict=True)])
    assert bool(((moved - centres(new)).abs() * coarser < 0.5).all())


def test_resampling_equals_the_bilinear_definition() -> None:
    tokens = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    field, moved = tokens.unflatten(1, (3, 4)), resample_tokens(tokens, (3, 4), (5, 2)).unflatten(1, (5, 2))
    for row in range(5):
        for col in range(2):
            y = min(max((row + 0.5) * 3 / 5 - 0.5, 0), 2)
            x = min(max((col + 0.5) * 4 / 2 - 0.5, 0), 3)
            expected = torch.zeros(2, 5)
            for r in range(3):
                for c in range(4):
                    expected += max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c)) * field[:, r, c]
            assert torch.allclose(moved[:, row, col], expected, atol=1e-6)
    assert resample_tokens(tokens, (3, 4), (3, 4)) is tokens
    assert resample_tokens(tokens.bfloat16(), (3, 4), (5, 2)).dtype == torch.bfloat16


def test_resampling_refuses_a_grid_that_is_not_the_tokens() -> None:
    with pytest.raises(ValueError, match=r"tokens \[2, 12, 5\] are not \[N, 4 \* 4, D\]"):
        resample_tokens(torch.zeros(2, 12, 5), (4, 4), (2, 2))
    with pytest.raises(ValueError, match="grids must be positive"):
        resample_tokens(torch.zeros(2, 12, 5), (3, 4), (0, 2))
