"""The model and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dinov3.detect.answers import said_boxes, scores_of
from dinov3.detect.detector import Detector, HeadShape, build_head
from dinov3.detect.detector_file import PRODUCT, About, load_detector, write_detector
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.headed.config import HeadOptimConfig
from dinov3.finetune.headed.groups import groups_of
from dinov3.models.convnext import ConvNeXt
from dinov3.weights.files import WeightsError
from dinov3.weights.provenance import Facts
from tests.finetune.tiny import PREPROCESS, backbone

SHAPE = HeadShape(3, 1, 3, 16, 1)
ABOUT = About(["a", "b", "c"], False, 1, 3, 16, 1, 32, 0.05, 0.6, "w", 7)
IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def made(*, frozen: bool = False) -> Detector:
    vit = backbone()
    head = build_head(SHAPE, vit)
    head.init_weights(torch.Generator().manual_seed(0))
    return Detector(vit, head, frozen=frozen)


def outputs(detector: Detector, images: Tensor = IMAGES) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        said = detector(images)
    return scores_of(said), said_boxes(said)


def test_every_level_has_its_places_and_an_odd_side_loses_none() -> None:
    said = made()(torch.zeros(1, 3, 40, 48))  # 5 x 6 patches
    assert said.levels == [10 * 12, 5 * 6, 3 * 3]
    assert said.classes.shape == (1, 159, 3)
    assert (said.sides > 0).all()
    assert said.places[:, 0].max() == 46


def test_a_new_head_takes_every_place_for_background() -> None:
    assert outputs(made())[0].max() < 0.2


def test_a_frozen_backbone_has_no_gradient_and_every_other_parameter_is_in_one_group() -> None:
    frozen = made(frozen=True).train()
    assert not frozen.backbone.training
    frozen(IMAGES).classes.sum().backward()
    assert all(p.grad is None for p in frozen.backbone.parameters())
    whole = nn.ModuleDict({"backbone": made().backbone, "head": made().head})
    names = [name for group in groups_of(whole, HeadOptimConfig()) for name in group.names]
    assert sorted(names) == sorted(n for n, p in whole.named_parameters() if not n.endswith("mask_token"))


def test_a_convnext_is_a_backbone_too() -> None:
    convnext = ConvNeXt(depths=[1, 1, 1, 1], dims=[4, 8, 8, 8])
    assert build_head(SHAPE, convnext).strides == [16, 32, 64]


def write(folder: Path) -> Detector:
    detector = made()
    folder.mkdir()
    write_detector(folder, detector, ABOUT, Facts(PREPROCESS))
    return detector


def test_a_detector_reads_back_to_the_bit(tmp_path: Path) -> None:
    before = write(tmp_path / "a").eval()
    after, about = load_detector(tmp_path / "a")
    assert about == ABOUT
    for one, other in zip(outputs(before), outputs(after), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": []},
        {"classes": ["a", "a"]},
        {"side": "32"},
        {"levels": 1},
        {"overlap": 2},
        {"more": 1},
        {"step": True},
    ],
)
def test_a_description_that_is_damaged_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / PRODUCT.file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FinetuneError, match=r"detector\.json: damaged"):
        load_detector(tmp_path / "a")


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / PRODUCT.file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"width": 32}))
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_detector(tmp_path / "a")
