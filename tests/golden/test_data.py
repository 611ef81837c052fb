"""Masks and collation reproduce the official numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinov3.data import masking
from tests.golden.case import Case
from tests.golden.cases_data import RUNNERS

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", ["E01_masking", "E02_collate"])
def test_data_reproduce_the_official_numbers(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS[name[:3]](case)
    assert case.failures == []
    assert case.checked > 0


def test_masks_without_blocks_are_told_from_the_official_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking.MaskingGenerator, "_lay_rectangle", lambda *_: 0)
    case = Case(DATA / "E01_masking")
    RUNNERS["E01"](case)
    assert any("neigh_mean" in failure for failure in case.failures)


def test_masks_from_larger_rectangles_are_told_from_the_official_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    lay = masking.MaskingGenerator._lay_rectangle

    def lay_larger(self: masking.MaskingGenerator, mask: masking.Mask, room: int, rng: np.random.Generator) -> int:
        self.min_num_patches = 8
        return lay(self, mask, room, rng)

    monkeypatch.setattr(masking.MaskingGenerator, "_lay_rectangle", lay_larger)
    case = Case(DATA / "E01_masking")
    RUNNERS["E01"](case)
    assert case.failures
