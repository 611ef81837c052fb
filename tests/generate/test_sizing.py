from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.features.preprocess import Preprocess
from dinov3.generate.buckets import SEVEN
from dinov3.generate.errors import GenerateError
from dinov3.generate.sizing import Sizing, bucketed

PLAIN = Preprocess((0.5,) * 3, (0.2,) * 3, 16)
SIDES = st.integers(16, 5000)


@given(height=SIDES, width=SIDES, pool=st.sampled_from([1, 2]))
def test_an_image_at_its_own_size_keeps_its_shape_up_to_half_a_multiple(height: int, width: int, pool: int) -> None:
    sizing = Sizing(None, max_side=1536, pool=pool)
    found = sizing.nearest(height, width)
    scale = min(1, 1536 / max(height, width))
    for got, side in ((found.height, height), (found.width, width)):
        assert got % (16 * pool) == 0
        assert abs(got - side * scale) <= 8 * pool or got == 16 * pool


@given(height=SIDES, width=SIDES)
def test_no_image_is_stretched_more_than_allowed(height: int, width: int) -> None:
    found = Sizing().bucket(height, width)
    if found is not None:
        assert found in SEVEN
        assert found.stretch(width, height) <= 1.25
    else:
        assert max(height / width, width / height) > 1344 / 704


def test_all_common_shapes_of_photographs_have_a_bucket() -> None:
    for width, height in [(4, 3), (3, 2), (16, 9), (1, 1), (5, 4), (2, 1), (21, 9)]:
        assert Sizing().bucket(100 * height, 100 * width) is not None
        assert Sizing().bucket(100 * width, 100 * height) is not None


def test_the_whole_image_is_resized_and_the_description_tells_what_changes_it() -> None:
    shaped = bucketed(PLAIN, Sizing(side=64))
    image = np.zeros((90, 60, 3), np.uint8)
    image[0], image[-1] = 255, 255
    out = shaped(image)
    assert tuple(out.shape[1:]) == shaped.target(90, 60)
    assert out[:, 0].mean() > 0 > out[:, 30].mean()
    assert out[:, -1].mean() > 0
    others = [Sizing(side=80), Sizing(side=64, pool=2), Sizing(side=None), Sizing(side=None, max_side=64)]
    descriptions = [bucketed(PLAIN, sizing).describe() for sizing in (Sizing(side=64), *others)]
    assert all(a != b for i, a in enumerate(descriptions) for b in descriptions[:i])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": 3}, "choose 1 or 2"),
        ({"side": 8}, "at least 16"),
        ({"max_stretch": 0.5}, "at least 1"),
        ({"max_stretch": float("nan")}, "at least 1"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(GenerateError, match=words):
        Sizing(**options)


def test_a_patch_that_does_not_divide_a_token_is_refused() -> None:
    with pytest.raises(GenerateError, match="patch of 14 px"):
        bucketed(Preprocess((0.5,), (0.2,), 14), Sizing())
