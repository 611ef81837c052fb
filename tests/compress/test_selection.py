from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinov3.compress.errors import CompressError
from dinov3.compress.selection import kept_by_energy, rank_by_energy, smallest_part

ENERGIES = st.lists(st.integers(0, 1000), min_size=1, max_size=30)


@given(ENERGIES, st.integers(1, 99))
def test_the_kept_part_is_what_a_loop_over_the_definition_keeps(energies: list[int], percent: int) -> None:
    order = sorted(range(len(energies)), key=lambda i: (-energies[i], i))
    kept: list[int] = []
    while not kept or (100 * sum(energies[i] for i in kept) < percent * sum(energies)):
        kept.append(order[len(kept)])
    found = kept_by_energy(torch.tensor(energies, dtype=torch.float64), percent / 100).tolist()
    # a share that is met exactly in integers may be missed by the last bit of the sums
    exact = any(100 * sum(sorted(energies, reverse=True)[:k]) == percent * sum(energies) for k in range(len(energies)))
    assert found == sorted(kept) or exact


@given(ENERGIES, st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_a_larger_share_never_keeps_less(energies: list[int], a: float, b: float) -> None:
    values = torch.tensor(energies, dtype=torch.float64)
    assert smallest_part(values, min(a, b)) <= smallest_part(values, max(a, b))


def test_a_share_of_one_keeps_everything_even_where_a_sum_is_full_early() -> None:
    steep = torch.logspace(0, -40, 60)
    assert smallest_part(steep, 1.0) == 60
    assert smallest_part(steep, 1e-9) == 1


def test_of_equal_energies_the_first_are_kept() -> None:
    assert kept_by_energy(torch.ones(6), 0.5).tolist() == [0, 1, 2]


def test_numbers_are_rounded_up_to_the_multiple_but_not_beyond_all() -> None:
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 1.0])
    assert len(kept_by_energy(values, 0.6, multiple=4)) == 4
    assert len(kept_by_energy(values, 0.99, multiple=4)) == 6


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_shares_outside_zero_to_one_are_refused(share: float) -> None:
    with pytest.raises(CompressError, match="above 0 and at most 1"):
        kept_by_energy(torch.ones(3), share)


def test_the_rank_of_a_matrix_of_rank_three_is_three() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    assert rank_by_energy(weight, 0.999999) == 3
