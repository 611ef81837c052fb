"""Batches: sample p of the stream is the same for any number of processes and threads, and after any start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import USUAL
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.finetune import stream as streams
from dinov3.finetune.labelled import LabelledSet, open_labelled
from dinov3.finetune.stream import ImageStream, LabelledBatch, Places
from dinov3.finetune.views import Views

VIEWS = Views(16, (0.5,) * 3, (0.25,) * 3, USUAL, preset="histology", scale=(0.5, 1.0))


@pytest.fixture
def labelled(at: Path) -> LabelledSet:
    return open_labelled(f"PCam:root={at}/pcam:split=train")


def taken(labelled: LabelledSet, n: int, *, position: int = 0, batch: int = 6, threads: int = 2) -> list[LabelledBatch]:
    found: list[BadSample] = []
    options = {"threads": threads, "max_bad_frac": 0.1, "on_bad": found.append}
    stream = ImageStream(labelled, VIEWS, Places(len(labelled), 5, position, batch), torch.device("cpu"), **options)
    try:
        return [next(stream) for _ in range(n)]
    finally:
        stream.close()


def joined(batches: list[LabelledBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def test_threads_batches_and_a_later_start_change_nothing(labelled: LabelledSet) -> None:
    images, labels = joined(taken(labelled, 4))
    for other in (taken(labelled, 4, threads=1), taken(labelled, 8, batch=3)):
        again = joined(other)
        assert torch.equal(again[0], images)
        assert torch.equal(again[1], labels)
    later = joined(taken(labelled, 2, position=12))
    assert torch.equal(later[0], images[12:])


def test_two_processes_share_a_batch(labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = joined(taken(labelled, 2))[0]
    monkeypatch.setattr(streams, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(streams, "rank", lambda rank=rank: rank)
        parts.append([b.images for b in taken(labelled, 2, batch=3)])
    assert torch.equal(torch.cat([parts[0][0], parts[1][0], parts[0][1], parts[1][1]]), whole)


def test_an_epoch_has_every_image_once_with_its_own_label(labelled: LabelledSet) -> None:
    places = Places(len(labelled), 5, 0, 10)
    seen = np.concatenate([places.take()[1] for _ in range(4)])
    assert sorted(seen) == list(range(40))
    plain = replace(VIEWS, preset="none", scale=(1.0, 1.0))
    batch = ImageStream(
        labelled, plain, Places(40, 5, 0, 8), torch.device("cpu"), threads=1, max_bad_frac=0, on_bad=print
    )
    first = next(batch)
    batch.close()
    assert first.labels.tolist() == labelled.labels[seen[:8]].tolist()


def test_an_image_that_cannot_be_read_gives_its_place_to_the_next_with_its_label(
    labelled: LabelledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = int(Places(40, 5, 0, 6).take()[1][2])
    read = Views.cut

    def cut(self: Views, source: object, index: int, draws: object) -> torch.Tensor:
        if index == spoilt:
            raise BadImage("spoilt")
        return read(self, labelled.source, index, None)

    monkeypatch.setattr(Views, "cut", cut)
    (batch,) = taken(labelled, 1)
    assert batch.labels[2] == labelled.labels[(spoilt + 1) % 40]

    def none(self: Views, source: object, index: int, draws: object) -> torch.Tensor:
        raise BadImage("all spoilt")

    monkeypatch.setattr(Views, "cut", none)
    with pytest.raises(TooManyBadSamples, match=r"40 images in a row are unreadable.*all spoilt"):
        taken(labelled, 1)
