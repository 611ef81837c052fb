from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.compress.allocation import Option, allocate
from dinov3.compress.errors import CompressError


@st.composite
def curves(draw: st.DrawFn) -> list[list[Option]]:
    """Parts whose error falls with cost, in steps of any size."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 5))
        costs = sorted(draw(st.lists(st.integers(1, 50), min_size=n, max_size=n, unique=True)), reverse=True)
        errors = sorted(draw(st.lists(st.integers(1, 99), min_size=n, max_size=n)))
        parts.append([Option(c, 0 if i == 0 else e, i) for i, (c, e) in enumerate(zip(costs, errors, strict=True))])
    return parts


@settings(deadline=None)
@given(curves(), st.floats(0.0, 1.0))
def test_the_budget_is_kept_and_no_single_repair_is_left_that_would_fit(
    parts: list[list[Option]], share: float
) -> None:
    least = sum(min(o.cost for o in part) for part in parts)
    most = sum(part[0].cost for part in parts)
    budget = least + share * (most - least)
    found = allocate(parts, budget)
    cost = sum(o.cost for o in found)
    assert cost <= budget + 1e-9
    for part, chosen in zip(parts, found, strict=True):
        assert chosen in part
        assert not [o for o in part if o.error < chosen.error and cost - chosen.cost + o.cost <= budget - 1e-9]
    best = min(sum(o.error for o in picks) for picks in product(*parts) if sum(o.cost for o in picks) <= budget)
    # one convex hull is exact; between its corners a Lagrangian may miss, by less than one part's error
    assert sum(o.error for o in found) <= best + max(o.error for part in parts for o in part)


def test_everything_is_kept_when_the_budget_allows_it() -> None:
    parts = [[Option(10, 0.0, "all"), Option(1, 5.0, "little")]] * 3
    assert [o.choice for o in allocate(parts, 30)] == ["all"] * 3


def test_the_part_whose_error_is_cheapest_is_cut() -> None:
    dear = [Option(10, 0.0, "all"), Option(5, 9.0, "half")]
    cheap = [Option(10, 0.0, "all"), Option(5, 1.0, "half")]
    assert [o.choice for o in allocate([dear, cheap], 15)] == ["all", "half"]


def test_a_budget_below_the_least_is_refused() -> None:
    with pytest.raises(CompressError, match="below the least"):
        allocate([[Option(10, 0.0, 0), Option(5, 1.0, 1)]], 4)
