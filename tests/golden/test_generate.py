"""The diffusion transformer's parts, sizes and names reproduce the recorded numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden.case import Case
from tests.golden.cases_generate import RUNNERS, feature_bias

DATA = Path(__file__).parent / "data"
NAMES = sorted(path.stem for path in DATA.glob("G*.json") if path.stem[:3] in RUNNERS)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_reproduce_the_recorded_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 30


def test_every_kind_has_a_case() -> None:
    assert {name[:3] for name in NAMES} == set(RUNNERS)


def test_a_changed_number_of_the_reference_is_a_failure() -> None:
    """Each stored output is looked at: changed, it is named."""
    compared: set[str] = set()
    case = Case(DATA / "G14_flow_pieces")
    check = case.check
    case.check = lambda key, value: (compared.add(key), check(key, value))  # type: ignore[method-assign]
    RUNNERS["G14"](case)
    outputs = compared - {"euler/linear_exact"}  # also an input: Euler's error is taken from it
    case = Case(DATA / "G14_flow_pieces")
    case.arrays = {key: _changed(value) if key in outputs else value for key, value in dict(case.arrays).items()}
    RUNNERS["G14"](case)
    assert {key for key in outputs if not any(failure.startswith(key) for failure in case.failures)} == set()
    assert len(outputs) > 50


def _changed(value: object) -> object:
    array = np.array(value)
    return ~array if array.dtype == bool else array + 1


@pytest.mark.parametrize(
    ("kind", "table", "key"), [("G15_geometry", "buckets", "context"), ("G16_webdataset_keys", "split", "key")]
)
def test_a_changed_row_of_the_json_is_a_failure(kind: str, table: str, key: str) -> None:
    case = Case(DATA / kind)
    case.meta[table][0][key] = 7
    RUNNERS[kind[:3]](case)
    assert len(case.failures) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("0", 0.0), ("m_log5", -np.log(5)), ("log2", np.log(2)), ("minus_inf", -np.inf), ("m_2.5", -2.5)],
)
def test_the_names_of_biases_are_read(name: str, value: float) -> None:
    assert feature_bias(name) == value
