from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden.case import Case
from tests.golden.cases_dense import RUNNERS

DATA = Path(__file__).parent / "data"
NAMES = sorted(path.stem for path in DATA.glob("G*.json") if path.stem[:3] in RUNNERS)


@pytest.mark.parametrize("name", NAMES)
def test_dense_evaluation_reproduces_the_reference_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 10


def test_every_kind_has_a_case() -> None:
    assert {name[:3] for name in NAMES} == set(RUNNERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_number_of_the_reference_is_a_failure(name: str) -> None:
    """Each stored output is looked at: changed, it is named."""
    outputs = outputs_of(name)
    case = Case(DATA / name)
    case.arrays = {key: changed(value) if key in outputs else value for key, value in dict(case.arrays).items()}
    RUNNERS[name[:3]](case)
    assert {key for key in outputs if not any(failure.startswith(key) for failure in case.failures)} == set()


def outputs_of(name: str) -> set[str]:
    """Arrays that the runner compares."""
    case = Case(DATA / name)
    compared: set[str] = set()
    check = case.check
    case.check = lambda key, value: (compared.add(key), check(key, value))  # type: ignore[method-assign]
    RUNNERS[name[:3]](case)
    return compared | {key for key in case.arrays if key.endswith("/pred") and name.startswith("G12")}


def changed(value: object) -> object:
    array = np.array(value)
    return ~array if array.dtype == bool else array + 1
