"""Crops: sample p of the stream is the same for any number of processes and threads, and after any start."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import USUAL
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.dense.augment import Augment
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.sets import open_parts
from dinov3.finetune import stream as places
from dinov3.finetune.stream import Places
from dinov3.segment.masked import MaskedSet
from dinov3.segment.stream import CropStream, Feeding, SegmentBatch

RULES = Augment((24, 24), 255, 0, (0.5, 2.0))
FEEDING = Feeding((0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def masked() -> MaskedSet:
    return MaskedSet(open_parts("Synthetic:n=15:size=32", "mask")[0], 15, SegmentProtocol(), USUAL)


def taken(
    masked: MaskedSet,
    n: int,
    *,
    position: int = 0,
    batch: int = 6,
    threads: int = 2,
    limit: float = 0.01,
    on_bad: Callable[[BadSample], object] = lambda bad: None,
) -> list[SegmentBatch]:
    where = Places(len(masked), 5, position, batch)
    options = {"threads": threads, "max_bad_frac": limit, "on_bad": on_bad}
    stream = CropStream(masked, RULES, FEEDING, where, torch.device("cpu"), **options)
    try:
        return [next(stream) for _ in range(n)]
    finally:
        stream.close()


def joined(batches: list[SegmentBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([b.images for b in batches]), torch.cat([b.masks for b in batches])


def test_threads_batches_and_a_later_start_change_nothing(masked: MaskedSet) -> None:
    images, masks = joined(taken(masked, 4))
    assert images.shape == (24, 3, 24, 24)
    assert masks.shape == (24, 24, 24)
    for other in (taken(masked, 4, threads=1), taken(masked, 8, batch=3)):
        again = joined(other)
        assert torch.equal(again[0], images)
        assert torch.equal(again[1], masks)
    assert torch.equal(joined(taken(masked, 2, position=12))[0], images[12:])


def test_two_processes_share_a_batch(masked: MaskedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = joined(taken(masked, 2))[0]
    monkeypatch.setattr(places, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(places, "rank", lambda rank=rank: rank)
        parts.append([b.images for b in taken(masked, 2, batch=3)])
    assert torch.equal(torch.cat([parts[0][0], parts[1][0], parts[0][1], parts[1][1]]), whole)


def test_one_image_is_cropped_differently_each_time(masked: MaskedSet) -> None:
    images, _ = joined(taken(masked, 4))  # 12 images, 24 samples: each twice
    assert len({image.numpy().tobytes() for image in images}) == 24


def test_an_unusable_image_gives_its_place_to_the_next(masked: MaskedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(masked, monkeypatch, {3})
    found: list[BadSample] = []
    images, masks = joined(taken(masked, 4, limit=0.5, on_bad=found.append))
    assert {bad.name for bad in found} == {masked.dense.name(3)}
    assert len(images) == len(masks) == 24


def test_too_many_end_the_run(masked: MaskedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(masked, monkeypatch, set(range(len(masked))))
    with pytest.raises(TooManyBadSamples, match="12 images in a row are unusable"):
        taken(masked, 1)


def spoil(masked: MaskedSet, monkeypatch: pytest.MonkeyPatch, which: set[int]) -> None:
    def truth(index: int) -> np.ndarray:
        if index in which:
            raise BadImage("torn")
        return np.zeros((32, 32), np.int32)

    monkeypatch.setattr(masked.dense, "truth", truth)
