from __future__ import annotations

import hashlib

import numpy as np

from dinov3.data.randomness import digest, generator


def test_a_generator_is_a_function_of_its_key_alone() -> None:
    first = generator(1, "crops", 2, 3).random(5)
    generator(1, "crops", 2, 4).random(100)
    assert np.array_equal(first, generator(1, "crops", 2, 3).random(5))


def test_every_part_of_the_key_changes_the_draws() -> None:
    wheres = [(0, 0), (1, 0), (0, 1), (0,), (0, 0, 0)]
    keys = [(0, "a", where) for where in wheres] + [(1, "a", (0, 0)), (0, "b", (0, 0))]
    assert len({generator(seed, purpose, *where).random() for seed, purpose, where in keys}) == len(keys)


def test_numbers_do_not_run_together_in_the_key() -> None:
    assert generator(0, "a", 1, 23).random() != generator(0, "a", 12, 3).random()


def test_the_key_is_blake2b_of_plain_text_so_that_it_can_be_recomputed_elsewhere() -> None:
    assert digest(7, "mask", 1, 2) == hashlib.blake2b(b"7/mask/1/2", digest_size=16).digest()


def test_later_views_do_not_change_the_draws_of_earlier_ones() -> None:
    few, many = generator(0, "crops", 0, 5).random((4, 35)), generator(0, "crops", 0, 5).random((10, 35))
    assert np.array_equal(few, many[:4])
