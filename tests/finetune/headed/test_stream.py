"""Views: sample p of the stream is the same for any number of processes and threads, any batch, and after any start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import USUAL, Pixels
from dinov3.data.errors import BadImage, TooManyBadSamples
from dinov3.dense.augment import Augment
from dinov3.dense.feeding import Crops, Feeding
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.sets import open_parts
from dinov3.detect.boxed import open_parts as open_boxes
from dinov3.detect.views import Views as BoxViews
from dinov3.finetune import stream as places
from dinov3.finetune.headed.scoring import TrueSet
from dinov3.finetune.headed.stream import ViewBatch, Views, ViewStream
from dinov3.finetune.stream import Places
from dinov3.segment.masked import MaskedSet

Kind = tuple[TrueSet, Views]
DATA = "Synthetic:n=15:size=32"
STATISTICS = (0.5,) * 3, (0.25,) * 3


@pytest.fixture(params=["masks", "boxes"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "boxes":
        return open_boxes(DATA, USUAL)[0], BoxViews(*STATISTICS, 24, (0.5, 2.0))
    masked = MaskedSet(open_parts(DATA, "mask")[0], 15, SegmentProtocol(), USUAL)
    return masked, Crops(Feeding(*STATISTICS), Augment((24, 24), 255, 0, (0.5, 2.0)))


def taken(
    kind: Kind,
    n: int,
    *,
    position: int = 0,
    batch: int = 6,
    threads: int = 2,
    limit: float = 0.01,
    on_bad: Callable[[BadSample], object] = lambda bad: None,
) -> list[ViewBatch]:
    where = Places(len(kind[0]), 5, position, batch)
    options = {"threads": threads, "max_bad_frac": limit, "on_bad": on_bad}
    stream = ViewStream(*kind, "a view", where, torch.device("cpu"), **options)
    try:
        return [next(stream) for _ in range(n)]
    finally:
        stream.close()


def joined(batches: list[ViewBatch]) -> tuple[torch.Tensor, list[bytes]]:
    """(images, the truth of each)."""
    truths = [truth for batch in batches for truth in batch.truths]
    numbers = [truth if isinstance(truth, torch.Tensor) else truth.corners for truth in truths]
    return torch.cat([batch.images for batch in batches]), [one.numpy().tobytes() for one in numbers]


def test_threads_batches_and_a_later_start_change_nothing(kind: Kind) -> None:
    images, truths = joined(taken(kind, 4))
    assert images.shape == (24, 3, 24, 24)
    assert len({image.numpy().tobytes() for image in images}) == 24  # 12 images, 24 samples: each is another view
    for start, other in (
        (0, taken(kind, 4, threads=1)),
        (0, taken(kind, 8, batch=3)),
        (12, taken(kind, 2, position=12)),
    ):
        again = joined(other)
        assert torch.equal(again[0], images[start:])
        assert again[1] == truths[start:]


def test_two_processes_share_a_batch(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = joined(taken(kind, 2))[0]
    monkeypatch.setattr(places, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(places, "rank", lambda rank=rank: rank)
        parts.append([b.images for b in taken(kind, 2, batch=3)])
    assert torch.equal(torch.cat([parts[0][0], parts[1][0], parts[0][1], parts[1][1]]), whole)


class Spoilt:
    """A set whose images ``which`` cannot be used."""

    def __init__(self, whole: TrueSet, which: set[int]) -> None:
        self.whole, self.which, self.name, self.content = whole, which, whole.name, whole.content

    def __len__(self) -> int:
        return len(self.whole)

    def read(self, index: int, channels: int) -> tuple[Pixels, object]:
        if index in self.which:
            raise BadImage("torn")
        return self.whole.read(index, channels)


def test_an_unusable_image_gives_its_place_to_the_next(kind: Kind) -> None:
    found: list[BadSample] = []
    images, truths = joined(taken((Spoilt(kind[0], {3}), kind[1]), 4, limit=0.5, on_bad=found.append))
    assert {bad.name for bad in found} == {kind[0].name(3)}
    assert len(images) == len(truths) == 24


def test_too_many_end_the_run(kind: Kind) -> None:
    with pytest.raises(TooManyBadSamples, match="12 images in a row are unusable"):
        taken((Spoilt(kind[0], set(range(12))), kind[1]), 1)
