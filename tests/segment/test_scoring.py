"""Mean IoU of windows over whole images is that of a brute-force count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3.data.decode import USUAL
from dinov3.dense.feeding import Feeding
from dinov3.dense.protocols import SegmentProtocol
from dinov3.dense.sets import open_parts
from dinov3.engine.precision import resolve
from dinov3.segment.masked import MaskedSet
from dinov3.segment.scoring import Scorer
from dinov3.segment.segmenter import HeadShape, Segmenter, build_head
from tests.finetune.tiny import backbone

FEEDING = Feeding((0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def masked() -> MaskedSet:
    return MaskedSet(open_parts("Synthetic:n=15:size=36", "mask")[1], 15, SegmentProtocol(), USUAL)


def made(kind: str = "linear") -> Segmenter:
    vit, shape = backbone(), HeadShape(15, kind, True, 4, 1, 16)
    head = build_head(shape, vit)
    head.init_weights(torch.Generator().manual_seed(3))
    return Segmenter(vit, head, shape).eval()


def scorer(threads: int = 1) -> Scorer:
    return Scorer(FEEDING, resolve("fp32", torch.device("cpu")), 24, 16, threads=threads)


@pytest.mark.parametrize("kind", ["linear", "dpt", "mask_transformer"])
def test_mean_iou_is_that_of_a_count_by_hand(masked: MaskedSet, kind: str) -> None:
    segmenter = made(kind)
    found = scorer().score(segmenter, masked, range(3))
    both = np.zeros(15)
    either = np.zeros(15)
    for index in range(3):
        pixels, truth = masked.read(index, 3)
        said = scorer().predict(segmenter, pixels).numpy()
        for number in range(15):
            both[number] += ((truth == number) & (said == number)).sum()
            either[number] += ((truth == number) | (said == number)).sum()
    expected = both[either > 0] / either[either > 0]
    assert found.scores["mIoU"] == pytest.approx(expected.mean(), abs=1e-12)
    assert [value is None for value in found.more["iou_of_class"]] == (either == 0).tolist()


@pytest.mark.parametrize("size", [(24, 24), (19, 33), (7, 5)])
def test_images_of_any_size_have_scores_of_that_size(size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    assert made()(images).shape == (1, 15, *size)
