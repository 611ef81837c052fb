"""Images as a classifier sees them: the same whoever asks, and scored as features are computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dinov3.data.decode import USUAL
from dinov3.data.sources import parse_dataset
from dinov3.features.preprocess import Preprocess
from dinov3.finetune.views import CHANGES, Views

SOURCE = parse_dataset("Synthetic:n=6:size=24:classes=2")
PLAIN = Views(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), USUAL)


def batch(views: Views, positions: list[int]) -> torch.Tensor:
    draws = np.stack([views.draws(0, p) for p in positions])
    cuts = torch.stack([views.cut(SOURCE, p % 6, row) for p, row in zip(positions, draws, strict=True)])
    return views.finish(cuts, draws)


def test_an_image_that_is_not_changed_is_what_features_are_computed_of() -> None:
    prepare = Preprocess(PLAIN.mean, PLAIN.std, 8, 16)
    wanted = torch.stack([prepare(np.asarray(SOURCE.read(i))) for i in range(6)])
    cuts = torch.stack([PLAIN.cut(SOURCE, i, None) for i in range(6)])
    torch.testing.assert_close(PLAIN.finish(cuts, None), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("preset", [name for name in CHANGES if name != "none"])
def test_a_view_is_a_function_of_its_position_whatever_else_is_in_the_batch(preset: str) -> None:
    views = replace(PLAIN, preset=preset, scale=(0.5, 1.0))
    together, alone = batch(views, [3, 10, 11]), batch(views, [10])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(batch(views, [10]), batch(views, [16]))  # the same image, another time
    assert views.changes
    assert not views.settled().changes


def test_flips_are_left_to_right_only() -> None:
    views = replace(PLAIN, preset="flips")
    cut = views.cut(SOURCE, 0, None)[None]
    plain = PLAIN.finish(cut, None)[0]
    seen = [views.finish(cut, views.draws(0, p)[None])[0] for p in range(12)]
    assert {torch.equal(one, plain) for one in seen} == {True, False}
    assert all(torch.equal(one, plain) or torch.equal(one, plain.flip(-1)) for one in seen)


def test_stain_normalisation_is_done_in_scoring_too() -> None:
    stained = replace(PLAIN, stain=True).settled()
    cut = PLAIN.cut(SOURCE, 1, None)[None]
    assert not torch.equal(stained.finish(cut, None), PLAIN.finish(cut, None))
