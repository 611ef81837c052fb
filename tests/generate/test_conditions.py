from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinov3.generate.conditions import CATEGORIES, ConditionShares, categories_of, drawn_categories, dropped
from dinov3.generate.errors import GenerateError


def test_drawn_shares_are_those_asked_for() -> None:
    shares = ConditionShares()
    drawn = drawn_categories(100_000, shares, torch.Generator().manual_seed(0))
    found = drawn.bincount(minlength=4) / len(drawn)
    assert found.tolist() == pytest.approx(shares.in_order(), abs=0.005)


def test_what_each_category_drops() -> None:
    text, features = dropped(torch.arange(4))
    assert dict(zip(CATEGORIES, zip(text.tolist(), features.tolist(), strict=True), strict=True)) == {
        "uncond": (True, True),
        "text_only": (False, True),
        "dino_only": (True, False),
        "both": (False, False),
    }


@given(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), st.floats(0, 1, exclude_max=True))
def test_a_category_without_a_share_is_never_drawn(parts: list[int], draw: float) -> None:
    shares = ConditionShares(*(part / sum(parts) for part in parts))
    uniform = torch.tensor([draw, 0.0, 1 - 2**-53], dtype=torch.float64)
    assert all(parts[number] > 0 for number in categories_of(uniform, shares.in_order()).tolist())


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5, 0.5, 0), (0.5, 0.2, 0.1, 0.1), (-0.1, 0.5, 0.3, 0.3), (float("nan"), 1, 0, 0)]
)
def test_shares_that_are_not_a_whole_are_one_line(shares: tuple[float, ...]) -> None:
    with pytest.raises(GenerateError, match="1 in sum") as error:
        ConditionShares(*shares)
    assert "\n" not in str(error.value)


def test_shares_of_other_names_are_refused() -> None:
    with pytest.raises(GenerateError, match="give uncond, text_only"):
        ConditionShares.of({"uncond": 1.0})
