"""Energy rules, ranks and 8-bit weights reproduce the recorded numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.case import Case
from tests.golden.cases_compress import RUNNERS

DATA = Path(__file__).parent / "data"
NAMES = sorted(p.stem for p in DATA.glob("*.json") if p.stem[:3] in RUNNERS)


@pytest.mark.parametrize("name", NAMES)
def test_compression_reproduces_the_recorded_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 0


def test_the_stored_cases_are_plain_gated_and_in_8_bits() -> None:
    assert {name[:3] for name in NAMES} >= {"G01", "G02", "G18"}


def test_a_kept_head_that_differs_is_a_failure() -> None:
    case = Case(DATA / "G01_compress_plain")
    case.meta["results"] = {"heads/0.89": case.meta["results"]["heads/0.89"]}
    case.meta["results"]["heads/0.89"]["heads_kept"][0] = [0, 1, 5]
    RUNNERS["G01"](case)
    assert any("heads/0.89 heads_kept" in failure for failure in case.failures)
    assert any("arrays not checked" in failure for failure in case.failures)
