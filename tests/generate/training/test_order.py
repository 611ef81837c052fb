from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dinov3.generate.training.order import BucketOrder


def rows_of(order: BucketOrder, steps: int) -> list[tuple[int, list[int]]]:
    found = [order.rows_at(step, np.arange(order.group)) for step in range(steps)]
    return [(bucket, rows.tolist()) for bucket, rows in found]


def test_a_bucket_gives_each_of_its_samples_once_before_any_comes_again() -> None:
    counts = (13, 7)
    stream: dict[int, list[int]] = {0: [], 1: []}
    for bucket, rows in rows_of(BucketOrder(counts, 4, seed=3), 60):
        stream[bucket] += rows
    for bucket, count in enumerate(counts):
        for first in range(0, len(stream[bucket]) - count, count):
            assert sorted(stream[bucket][first : first + count]) == list(range(count))


def test_samples_come_equally_often_whatever_their_bucket() -> None:
    seen = Counter(bucket for bucket, _ in rows_of(BucketOrder((300, 100), 4, seed=0), 2000))
    assert seen[0] / 2000 == pytest.approx(0.75, abs=0.01)


def test_any_step_is_found_without_the_steps_before() -> None:
    far = BucketOrder((13, 7, 2), 8, seed=1).bucket_at(500)
    order = BucketOrder((13, 7, 2), 8, seed=1)
    before = Counter[int]()
    for step in range(500):
        bucket, had = order.bucket_at(step)
        assert had == before[bucket]
        before[bucket] += 1
    assert order.bucket_at(500) == far == (far[0], before[far[0]])


def test_a_set_smaller_than_a_step_is_repeated() -> None:
    ((bucket, rows),) = rows_of(BucketOrder((3,), 8, seed=0), 1)
    assert bucket == 0
    assert set(rows) == {0, 1, 2}


def test_another_seed_is_another_order() -> None:
    assert rows_of(BucketOrder((13, 7), 4, seed=0), 10) != rows_of(BucketOrder((13, 7), 4, seed=1), 10)
