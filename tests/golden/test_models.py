"""The models reproduce the official numbers, names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.golden.case import Case
from tests.golden.cases_models import RUNNERS, compare, init_problem

DATA = Path(__file__).parent / "data"
NAMES = sorted(p.stem for p in DATA.glob("*.json") if p.stem[:3] in RUNNERS)


@pytest.mark.parametrize("name", NAMES)
def test_models_reproduce_the_official_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 0


def test_the_stored_cases_cover_every_kind_of_model() -> None:
    assert {name[:3] for name in NAMES} >= {"A01", "A03", "A04", "A06", "A07", "A20", "A30", "B01", "F01"}


def test_an_output_that_was_not_computed_is_a_failure() -> None:
    case = Case(DATA / "B01_head_n1")
    compare(case, {key: case.tensor(key) for key in case.arrays if key != "no_last"})
    assert case.failures == ["no_last: stored, but not computed"]


def test_a_wrong_initial_spread_is_a_problem() -> None:
    draws = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0)) * 0.02
    assert init_problem(draws, 0.0, 0.02, -0.08, 0.08, 10_000) is None
    assert "std" in str(init_problem(draws * 1.05, 0.0, 0.02, -0.08, 0.08, 10_000))
    assert "mean" in str(init_problem(draws + 0.002, 0.0, 0.02, -0.08, 0.08, 10_000))
    assert "extreme" in str(
        init_problem(draws.clamp(-0.05, 0.05), 0.0, float(draws.clamp(-0.05, 0.05).std()), -0.08, 0.08, 10_000)
    )
