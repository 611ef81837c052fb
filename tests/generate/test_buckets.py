from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.generate.buckets import SEVEN, Bucket, buckets_of_side, down_to_multiple, nearest, to_multiple

SIDES = st.integers(1, 20_000)


@given(side=SIDES, multiple=st.sampled_from([8, 14, 16, 32]))
def test_a_side_is_brought_to_the_nearest_multiple(side: int, multiple: int) -> None:
    found = to_multiple(side, multiple)
    assert found % multiple == 0
    assert found >= multiple
    assert abs(found - side) <= multiple / 2 or found == multiple
    assert down_to_multiple(side, multiple) in (found, found - multiple)


def test_halves_go_up() -> None:
    assert [to_multiple(side) for side in (1000, 24, 40, 8, 7)] == [1008, 32, 48, 16, 16]


def test_the_seven_have_about_as_many_pixels_as_a_square_of_1024_and_even_grids() -> None:
    assert [bucket.grid() for bucket in SEVEN] == [
        *((64, 64), (52, 76), (76, 52), (48, 80)),
        *((80, 48), (44, 84), (84, 44)),
    ]
    assert buckets_of_side(1024) == SEVEN
    assert all(rows % 2 == cols % 2 == 0 for rows, cols in (bucket.grid() for bucket in SEVEN))


@given(side=st.integers(16, 2048), multiple=st.sampled_from([16, 32]))
def test_buckets_of_any_side_are_different_and_whole(side: int, multiple: int) -> None:
    buckets = buckets_of_side(side, multiple)
    assert len(set(buckets)) == len(buckets)
    assert all(length % multiple == 0 for bucket in buckets for length in (bucket.width, bucket.height))


@pytest.mark.parametrize("bucket", SEVEN)
def test_an_image_of_a_buckets_shape_goes_there_unchanged_in_shape(bucket: Bucket) -> None:
    assert nearest(SEVEN, 3 * bucket.width, 3 * bucket.height) == bucket
    assert bucket.stretch(3 * bucket.width, 3 * bucket.height) == 1


@given(width=SIDES, height=SIDES)
def test_turned_images_go_to_turned_buckets(width: int, height: int) -> None:
    a, b = nearest(SEVEN, width, height), nearest(SEVEN, height, width)
    assert a.stretch(width, height) == pytest.approx(b.stretch(height, width))
