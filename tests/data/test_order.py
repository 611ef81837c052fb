from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dinov3.data import order as sampler
from dinov3.data.order import MIX_BLOCK, Order, permuted, rank_positions, samples_at


@settings(max_examples=60, deadline=None)
@given(
    n=st.one_of(st.integers(1, 300), st.integers(4090, 9000)), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6)
)
def test_every_image_comes_once_an_epoch(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permuted(np.arange(n), n, seed, epoch)), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 3000), seed=st.integers(0, 100))
def test_the_feistel_network_is_a_permutation_at_small_sizes_too(n: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "SHUFFLED", 0)
        assert np.array_equal(np.sort(permuted(np.arange(n), n, seed, 0)), np.arange(n))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 50), start=st.integers(0, 10**9), length=st.integers(1, 120), seed=st.integers(0, 9))
def test_a_stretch_of_the_stream_equals_single_positions(n: int, start: int, length: int, seed: int) -> None:
    positions = np.arange(start, start + length)
    epochs, indices = samples_at(positions, n, seed)
    for position, epoch, index in zip(positions.tolist(), epochs.tolist(), indices.tolist(), strict=True):
        assert epoch == position // n
        assert index == permuted(np.array([position % n]), n, seed, epoch)[0]


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = {tuple(permuted(np.arange(50), 50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@pytest.mark.parametrize("n", [97, 5000])
def test_places_of_one_image_are_uniform_over_seeds(n: int) -> None:
    draws, bins = 3000, 20
    firsts = np.array([permuted(np.array([0]), n, seed, 1)[0] for seed in range(draws)])
    counts = np.bincount(firsts * bins // n, minlength=bins)
    expected = np.bincount(np.arange(n) * bins // n, minlength=bins) * draws / n
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 50  # 19 degrees of freedom: 1 in 7000


def test_neighbours_in_the_order_are_not_neighbours_in_the_dataset() -> None:
    n = 100_000
    order = permuted(np.arange(n), n, 0, 0)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(n)


def test_a_trillion_images_need_no_memory_and_no_time() -> None:
    started = time.process_time()
    epochs, indices = samples_at(np.arange(64) + 10**13, 10**12, 0)
    assert time.process_time() - started < 1, "of the CPU, whoever else uses it"
    assert set(epochs.tolist()) == {10}
    assert len(set(indices.tolist())) == 64
    assert indices.max() > 9 * 10**11


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 9), position=st.integers(0, 1000))
def test_processes_share_one_global_batch_whatever_their_number(batch: int, position: int) -> None:
    total = 6 * batch
    for world in (1, 2, 3, 6):
        slices = [rank_positions(position, total // world, rank, world) for rank in range(world)]
        assert np.concatenate(slices).tolist() == list(range(position, position + total))


def test_a_rank_outside_the_group_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 2 is not one of 2 processes"):
        rank_positions(0, 4, 2, 2)


WEIGHTS = (0.5, 0.3, 0.15, 0.05)
SIZES = (70_000, 1_000, 37, 5_000)


def owners(order: Order, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(np.cumsum(order.sizes), indices, side="right")


def test_weights_hold_exactly_over_every_block_and_nearly_in_between() -> None:
    order = Order.mixed(SIZES, WEIGHTS)
    _, indices = order.samples_at(np.arange(2 * MIX_BLOCK), 0)
    for block in (indices[:MIX_BLOCK], indices[MIX_BLOCK:]):
        shares = np.bincount(owners(order, block), minlength=4) / MIX_BLOCK
        assert np.abs(shares - WEIGHTS).max() <= 1 / MIX_BLOCK
    batches = owners(order, indices).reshape(-1, 1024)
    shares = np.stack([np.bincount(batch, minlength=4) for batch in batches]) / 1024
    spread = np.sqrt(np.array(WEIGHTS) * (1 - np.array(WEIGHTS)) / 1024)
    assert (np.abs(shares - WEIGHTS) < 5 * spread).all()
    assert np.abs(shares.std(axis=0) / spread - 1).max() < 0.25  # as independent draws, not in a pattern


def test_each_dataset_of_a_mixture_shows_every_image_once_an_epoch_of_its_own() -> None:
    order = Order.mixed(SIZES, WEIGHTS)
    epochs, indices = order.samples_at(np.arange(5 * MIX_BLOCK // 2), 3)
    starts = np.cumsum([0, *SIZES])
    for number, size in enumerate(SIZES):
        own = owners(order, indices) == number
        seen, when = indices[own] - starts[number], epochs[own]
        assert (np.diff(when) >= 0).all()  # an epoch ends before the next begins
        for epoch in range(int(when[-1])):
            assert np.array_equal(np.sort(seen[when == epoch]), np.arange(size))
        last = seen[when == when[-1]]
        assert len(np.unique(last)) == len(last)


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    start=st.one_of(st.integers(0, 10**13), st.just(MIX_BLOCK - 20)),
    world=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 9),
)
def test_a_mixed_stream_is_the_same_for_any_processes_and_from_any_position(
    weights: list[float], start: int, world: int, seed: int
) -> None:
    order = Order.mixed([100 + i for i in range(len(weights))], weights)
    epochs, indices = order.samples_at(np.arange(start, start + 40), seed)
    for rank in range(world):
        share = rank_positions(start, 40 // world, rank, world)
        its_epochs, its_indices = order.samples_at(share, seed)
        assert np.array_equal(its_indices, indices[share - start])
        assert np.array_equal(its_epochs, epochs[share - start])
    for i in (0, 17, 39):
        epoch, index = order.samples_at(np.array([start + i]), seed)
        assert (epoch[0], index[0]) == (epochs[i], indices[i])


def test_equal_datasets_of_a_mixture_are_shuffled_differently() -> None:
    order = Order.mixed([500, 500], [1, 1])
    _, indices = order.samples_at(np.arange(1000), 0)
    first, second = indices[indices < 500][:400], indices[indices >= 500][:400] - 500
    assert (first == second).mean() < 0.05


def test_a_mixture_of_a_trillion_images_costs_no_more_far_into_the_stream() -> None:
    order = Order.mixed([10**12, 10**6], [3, 1])
    order.samples_at(np.arange(64), 0)
    started = time.process_time()
    epochs, _ = order.samples_at(np.arange(64) + 10**14, 0)
    assert time.process_time() - started < 0.5
    assert set(epochs.tolist()) == {75, 25 * 10**6 - 1}


def test_weights_are_rounded_to_slots_that_fill_a_block() -> None:
    assert Order.mixed([1, 1, 1], [1, 1, 1]).slots == (21846, 21845, 21845)
    assert Order.mixed([1, 1], [3, 1]).slots == (49152, 16384)
    with pytest.raises(ValueError, match="weight 1 is less than"):
        Order.mixed([1, 1], [1, 10**6])
    with pytest.raises(IndexError, match="7 is not below 7"):
        Order((3, 4), (1, 1)).dataset_of(7)
