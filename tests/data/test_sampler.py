from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.data import sampler
from dinov3.data.sampler import permuted, rank_positions, samples_at


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
    started = time.perf_counter()
    epochs, indices = samples_at(np.arange(64) + 10**13, 10**12, 0)
    assert time.perf_counter() - started < 1
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
