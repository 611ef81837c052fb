"""Views: sample p of the stream is the same for any number of threads, any batch, and after any start."""

from __future__ import annotations

import torch

from dinov3.data.decode import USUAL
from dinov3.detect.boxed import open_parts
from dinov3.detect.stream import BoxStream, DetectBatch
from dinov3.detect.views import Views
from dinov3.finetune.stream import Places

VIEWS = Views((0.5,) * 3, (0.25,) * 3, 24, (0.5, 2.0))


def taken(n: int, *, position: int = 0, batch: int = 6, threads: int = 2) -> list[DetectBatch]:
    train = open_parts("Synthetic:n=15:size=32", USUAL)[0]
    where = Places(len(train), 5, position, batch)
    options = {"threads": threads, "max_bad_frac": 0.01, "on_bad": lambda bad: None}
    stream = BoxStream(train, VIEWS, where, torch.device("cpu"), **options)
    try:
        return [next(stream) for _ in range(n)]
    finally:
        stream.close()


def test_threads_batches_and_a_later_start_change_nothing() -> None:
    whole = taken(4)
    images = torch.cat([batch.images for batch in whole])
    corners = [truth.corners for batch in whole for truth in batch.truths]
    assert images.shape == (24, 3, 24, 24)
    assert len({image.numpy().tobytes() for image in images}) == 24  # 12 images, 24 samples: each is another view
    for start, other in ((0, taken(4, threads=1)), (0, taken(8, batch=3)), (12, taken(2, position=12))):
        assert torch.equal(torch.cat([batch.images for batch in other]), images[start:])
        again = [truth.corners for batch in other for truth in batch.truths]
        assert all(torch.equal(a, b) for a, b in zip(again, corners[start:], strict=True))
