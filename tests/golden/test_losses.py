from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.case import Case
from tests.golden.cases_losses import RUNNERS, Checks

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["B02_dino_loss", "B03_ibot_loss", "B04_koleo", "B05_gram", "B10_world2"])
def test_losses_reproduce_the_official_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 0


def test_an_output_that_nobody_checks_is_a_failure() -> None:
    case = Case(DATA / "B04_koleo")
    check = Checks(case)
    for key in case.arrays.files[:-1]:
        check(key, case.tensor(key))
    check.done()
    assert case.failures == [f"{case.arrays.files[-1]}: never checked"]


def test_a_wrong_number_is_a_failure() -> None:
    case = Case(DATA / "B04_koleo")
    Checks(case)("0/loss", case.tensor("0/loss") * 1.001)
    assert len(case.failures) == 2  # elementwise and relative L2
