from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.case import Case
from tests.golden.cases_optim import RUNNERS

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["C01_schedules", "C02_param_groups"])
def test_schedules_and_groups_are_the_official_ones(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 0
