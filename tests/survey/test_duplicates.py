from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from dinov3.data.sources import parse_dataset
from dinov3.survey.duplicates import (
    DISTANCE,
    FLAT,
    close_pairs,
    distance,
    equal_groups,
    groups,
    is_flat,
    perceptual_hashes,
    thumbnail,
)

SCENES = parse_dataset("Synthetic:n=40:size=96")


def scene(index: int) -> Image.Image:
    return Image.fromarray(np.asarray(SCENES.read(index)))


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def hashes_of(images: list[Image.Image]) -> np.ndarray:
    return perceptual_hashes(np.stack([thumbnail(np.asarray(image)) for image in images]))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, 50),
        lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["jpeg 50", "half size", "darker", "gray"],
)
def test_a_changed_copy_is_within_the_distance_and_other_pictures_are_not(change) -> None:  # type: ignore[no-untyped-def]
    images = [scene(n) for n in range(30)]
    originals, copies = hashes_of(images), hashes_of([change(image) for image in images])
    assert np.quantile(distance(originals, copies), 0.9) <= DISTANCE
    others = distance(originals[:, None], originals[None])[~np.eye(30, dtype=bool)]
    assert others.min() > 2 * DISTANCE


def test_the_distance_counts_bits() -> None:
    a = np.array([0, 0b1011, 2**64 - 1], dtype=np.uint64)
    assert distance(a, np.zeros(3, dtype=np.uint64)).tolist() == [0, 3, 64]


@settings(max_examples=60, deadline=None)
@given(
    centres=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    flips=st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 63), max_size=7)), max_size=25),
    most=st.integers(0, 6),
)
def test_close_pairs_are_those_of_a_comparison_of_all(
    centres: list[int], flips: list[tuple[int, list[int]]], most: int
) -> None:
    hashes = set(centres)
    for centre, bits in flips:
        value = centres[centre % len(centres)]
        for bit in bits:
            value ^= 1 << bit
        hashes.add(value)
    values = sorted(hashes)
    expected = [
        [i, j]
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= most
    ]
    assert close_pairs(np.array(values, dtype=np.uint64), most).tolist() == expected


def test_a_hundred_thousand_hashes_are_compared_in_seconds_even_when_a_band_is_shared_by_many() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[:2000] = (hashes[:2000] >> np.uint64(13) << np.uint64(13)) | np.uint64(5)
    hashes[-3:] = hashes[:3] ^ np.array([1 << 63, 0b11 << 30, 0xF << 9], dtype=np.uint64)
    values, place = np.unique(hashes, return_index=True)
    pairs = np.sort(place[close_pairs(values)], axis=1)
    assert pairs[np.argsort(pairs[:, 0])].tolist() == [[0, 99_997], [1, 99_998], [2, 99_999]]


def test_blank_pictures_are_known_by_their_contrast() -> None:
    rng = np.random.default_rng(0)
    noise = (128 + FLAT / 2 * rng.standard_normal((1, 32, 32))).round().astype(np.uint8)
    pictures = np.concatenate([np.full((1, 32, 32), 250, dtype=np.uint8), noise, thumbnail(np.asarray(scene(0)))[None]])
    assert is_flat(pictures).tolist() == [True, True, False]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_has_a_thumbnail(channels: int) -> None:
    pixels = np.repeat(np.asarray(scene(1).convert("L"))[:, :, None], channels, axis=2)
    assert np.array_equal(thumbnail(pixels), thumbnail(pixels[:, :, :1]))


def test_groups_are_what_hangs_together() -> None:
    assert groups(np.array([[5, 9], [1, 2], [2, 7], [9, 4]])) == [[1, 2, 7], [4, 5, 9]]
    assert groups(np.empty((0, 2), dtype=np.int64)) == []


def test_equal_keys_make_groups() -> None:
    found = equal_groups(np.array([b"a", b"b", b"a", b"c", b"b", b"a"]))
    assert [group.tolist() for group in found] == [[0, 2, 5], [1, 4]]
    assert equal_groups(np.empty(0, dtype="S16")) == []
