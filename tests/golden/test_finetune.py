"""LoRA and metrics reproduce the recorded numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden.case import Case
from tests.golden.cases_finetune import RUNNERS

DATA = Path(__file__).parent / "data"
NAMES = sorted(p.stem for p in DATA.glob("*.json") if p.stem[:3] in RUNNERS)


@pytest.mark.parametrize("name", NAMES)
def test_lora_and_metrics_reproduce_the_recorded_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 0


def test_the_stored_cases_are_of_every_kind() -> None:
    assert {name[:3] for name in NAMES} >= {"G03", "G04", "G05", "G06"}


def test_a_metric_that_differs_is_a_failure() -> None:
    case = Case(DATA / "G06_binary_metrics")
    arrays = dict(case.arrays)
    arrays["ties/metrics"] = arrays["ties/metrics"] + np.array([1e-6, 0, 0, 0, 0, 0, 0])
    case.arrays = arrays
    RUNNERS["G06"](case)
    assert len(case.failures) == 1
    assert case.failures[0].startswith("ties/metrics: elementwise")
