from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.data.masking import (
    BLOCK,
    MaskingGenerator,
    MaskPlan,
    block_size,
    circularly_shifted,
    deal,
    largest_rectangle,
    mask_counts,
)


def plan(images: int, grid: int = 8, **changes: Any) -> MaskPlan:
    settings: dict[str, Any] = {"probability": 0.5, "ratio": (0.1, 0.5), **changes}
    return MaskPlan.make(0, images, 16 * grid, 16, **settings)


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 18), width=st.integers(1, 18), seed=st.integers(0, 10**6), data=st.data())
def test_a_mask_hides_exactly_the_wanted_number(height: int, width: int, seed: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, height * width))
    mask = MaskingGenerator((height, width))(wanted, rng=np.random.default_rng(seed))
    assert mask.shape == (height, width)
    assert mask.sum() == wanted


def test_masks_are_blocks_and_not_dust() -> None:
    mask_of = MaskingGenerator((16, 16))
    blocky = np.stack([mask_of(64, rng=np.random.default_rng(seed)) for seed in range(200)])
    rng = np.random.default_rng(0)
    dust = rng.permuted(np.tile(np.arange(256) < 64, (200, 1)), axis=1).reshape(200, 16, 16)

    def has_masked_right_neighbour(masks: np.ndarray) -> float:
        return float((masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, :-1].sum())

    assert has_masked_right_neighbour(blocky) > 0.7
    assert has_masked_right_neighbour(dust) < 0.3


def test_rectangles_keep_to_their_largest_area() -> None:
    """With one rectangle a mask and no room to fill, what is hidden is that rectangle."""
    small = MaskingGenerator((30, 30), min_num_patches=4, max_num_patches=6, min_aspect=1.0)
    for seed in range(50):
        mask = small(4, rng=np.random.default_rng(seed))
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) == 1
        assert np.ptp(columns) == 1


def test_the_default_number_can_be_given_once() -> None:
    assert MaskingGenerator(6, 10)(rng=np.random.default_rng(0)).sum() == 10


@pytest.mark.parametrize("wanted", [-1, 37, None])
def test_an_impossible_number_is_refused(wanted: int | None) -> None:
    with pytest.raises(ValueError, match="of 36 patches"):
        MaskingGenerator(6)(wanted, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("size", "patch", "expected"), [(224, 16, 98), (256, 16, 128), (240, 16, 105), (126, 14, 36)])
def test_the_largest_rectangle_is_rounded_as_upstream(size: int, patch: int, expected: int) -> None:
    assert largest_rectangle(size, patch) == expected  # 0.5*240 // 16 = 7, 7*240 // 16 = 105; half of 15*15 is 112.5


def test_counts_divide_the_range_evenly_and_never_use_its_start() -> None:
    assert mask_counts(8, 100, 0.5, (0.1, 0.5)).tolist() == [0, 0, 0, 0, 20, 30, 40, 50]
    assert mask_counts(3, 100, 0.0, (0.1, 0.5)).tolist() == [0, 0, 0]
    assert mask_counts(2, 100, 1.0, (0.3, 0.3)).tolist() == [30, 30]


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 60),
    probability=st.floats(0, 1),
    ratio=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_dealing_keeps_every_count_and_makes_hands_almost_equal(
    images: int, probability: float, ratio: list[float]
) -> None:
    counts = mask_counts(2 * images, 196, probability, (ratio[0], ratio[1]))
    dealt = deal(counts, images // block_size(images))
    assert sorted(dealt.ravel().tolist()) == counts.tolist()
    assert np.ptp(dealt.sum(1)) <= counts.max()


def test_hands_of_a_usual_batch_differ_by_a_few_patches() -> None:
    sums = plan(64, 16).dealt.sum(1)
    assert len(sums) == 16
    assert np.ptp(sums) <= 3


@pytest.mark.parametrize(
    ("images", "expected"), [(1, 1), (3, 3), (4, 4), (8, 4), (9, 9), (10, 5), (13, 13), (64, 4), (22, 11)]
)
def test_blocks_divide_the_batch(images: int, expected: int) -> None:
    assert block_size(images) == expected
    assert expected >= BLOCK or expected == images


@settings(max_examples=20, deadline=None)
@given(images=st.integers(1, 24), position=st.integers(0, 10**6))
def test_one_process_has_exactly_the_official_counts(images: int, position: int) -> None:
    masks = plan(images).draw(position, range(images))
    counts = mask_counts(2 * images, 64, 0.5, (0.1, 0.5))
    assert sorted(masks.sum(2).ravel().tolist()) == counts.tolist()
    assert plan(images).upperbound(images) == counts.sum()


@pytest.mark.parametrize("images", [8, 12, 24])
def test_images_have_the_same_masks_however_they_are_shared_out(images: int) -> None:
    whole = plan(images).draw(77, range(images))
    for parts in (2, 4, images):
        size = images // parts
        shares = [plan(images).draw(77, range(start, start + size)) for start in range(0, images, size)]
        assert np.array_equal(np.concatenate(shares, axis=1), whole)


@settings(max_examples=30, deadline=None)
@given(images=st.integers(1, 30), data=st.data())
def test_no_share_of_a_batch_hides_more_than_the_upper_bound(images: int, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([n for n in range(1, images + 1) if images % n == 0]))
    masks = plan(images)
    bound = masks.upperbound(size)
    for position in range(3):
        hidden = masks.draw(position, range(images)).sum((0, 2)).reshape(-1, size).sum(1)
        assert hidden.max() <= bound


def test_the_upper_bound_is_reached_where_a_share_cuts_a_block() -> None:
    masks = plan(4)  # one block: its eight crops can come in any order
    bound = masks.upperbound(1)
    pairs = {int(counts.sum()) for p in range(300) for counts in masks.draw(p, range(4)).sum(2).T}
    assert max(pairs) == bound == sum(sorted(masks.dealt.ravel().tolist())[-2:])


def test_a_process_of_whole_blocks_hides_the_same_number_in_every_batch() -> None:
    masks = plan(16)
    for start in range(0, 16, 8):
        assert len({int(masks.draw(position, range(start, start + 8)).sum()) for position in range(5)}) == 1


def test_every_crop_of_an_image_gets_every_count_in_time() -> None:
    masks = plan(4)
    seen = {
        (crop, int(n)) for position in range(400) for crop, n in enumerate(masks.draw(position, range(1)).sum(2)[:, 0])
    }
    assert seen == set(itertools.product((0, 1), masks.dealt.ravel().tolist()))


def test_masks_differ_between_batches_images_crops_and_seeds() -> None:
    ratio = {"probability": 1.0, "ratio": (0.5, 0.5)}
    draws = [MaskPlan.make(seed, 4, 64, 8, **ratio).draw(p, range(4)) for seed in (0, 1) for p in (0, 4)]  # type: ignore[arg-type]
    rows = np.concatenate([draw.reshape(8, 64) for draw in draws])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_a_circular_shift_rolls_the_mask() -> None:
    mask = MaskingGenerator((5, 7))(9, rng=np.random.default_rng(0))
    rolled = {np.roll(mask, shift, axis=(0, 1)).tobytes() for shift in itertools.product(range(5), range(7))}
    shifted = {circularly_shifted(mask, np.random.default_rng(seed)).tobytes() for seed in range(400)}
    assert shifted == rolled


def test_shifted_masks_hide_borders_as_often_as_the_middle() -> None:
    ratio: dict[str, Any] = {"probability": 1.0, "ratio": (0.4, 0.4)}
    for shift, low in ((False, 0.0), (True, 0.85)):
        masks = plan(200, random_circular_shift=shift, **ratio).draw(0, range(200)).mean((0, 1)).reshape(8, 8)
        corners = masks[[0, 0, 7, 7], [0, 7, 0, 7]].mean() / masks[3:5, 3:5].mean()
        assert (corners > low) if shift else (corners < 0.6)
