from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dinov3.generate.guidance import chained, independent


def velocities(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none, text, dino, full = torch.randn(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return none, text, dino, full


@given(seed=st.integers(0, 2**20))
def test_scales_of_zero_and_one_are_the_model_itself(seed: int) -> None:
    none, text, dino, full = velocities(seed)
    assert torch.equal(independent(none, text, dino, text_scale=0, dino_scale=0), none)
    assert torch.equal(chained(none, dino, full, text_scale=0, dino_scale=0), none)
    pairs = [
        (independent(none, text, dino, text_scale=1, dino_scale=0), text),
        (independent(none, text, dino, text_scale=0, dino_scale=1), dino),
        (chained(none, dino, full, text_scale=0, dino_scale=1), dino),
        (chained(none, dino, full, text_scale=1, dino_scale=1), full),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 2**20), text_scale=st.floats(0, 10), dino_scale=st.floats(0, 10))
def test_conditions_that_change_nothing_change_nothing(seed: int, text_scale: float, dino_scale: float) -> None:
    none = velocities(seed)[0]
    scales = {"text_scale": text_scale, "dino_scale": dino_scale}
    assert torch.equal(independent(none, none, none, **scales), none)
    assert torch.equal(chained(none, none, none, **scales), none)
