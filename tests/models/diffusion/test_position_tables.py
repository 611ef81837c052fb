from __future__ import annotations

import math

import pytest
import torch

from dinov3.models.diffusion.position_tables import position_table, time_table


def test_an_entry_is_the_formula_written_out() -> None:
    rows, cols, dim = 3, 5, 16
    table = position_table(rows, cols, dim)
    for i, j, k in [(0, 0, 0), (1, 4, 2), (2, 3, 3)]:
        for block, (index, n, function) in enumerate(
            [(i, rows, math.sin), (i, rows, math.cos), (j, cols, math.sin), (j, cols, math.cos)]
        ):
            angle = 32 * (2 * (index + 0.5) / n - 1) * 10000 ** (-k / 4)
            assert table[i * cols + j, block * 4 + k] == pytest.approx(function(angle), abs=1e-6)


def test_neighbours_of_a_large_grid_can_be_told_apart() -> None:
    """With the coordinates as they are, their cosine is 0.99996."""
    fine, raw = (position_table(1, 64, 768, scale=scale) for scale in (32.0, 1.0))
    assert torch.cosine_similarity(raw[31], raw[32], dim=0) > 0.9999
    assert torch.cosine_similarity(fine[31], fine[32], dim=0) < 0.99


def test_a_width_that_four_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="4 must divide"):
        position_table(2, 2, 6)


def test_the_table_of_time_zero_is_sines_then_cosines() -> None:
    assert time_table(torch.zeros(1), 6).tolist() == [[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]
    with pytest.raises(ValueError, match="even width"):
        time_table(torch.zeros(1), 5)
