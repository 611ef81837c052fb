"""What trains, at which rate; and the file of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dinov3.config.errors import ConfigError
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.headed.config import HeadOptimConfig
from dinov3.finetune.headed.groups import groups_of
from dinov3.models.convnext import ConvNeXt
from dinov3.segment.segmenter import HeadShape, Segmenter, build_head
from dinov3.segment.segmenter_file import ABOUT, About, load_segmenter, write_segmenter
from dinov3.weights.files import WeightsError
from dinov3.weights.provenance import Facts
from tests.finetune.tiny import PREPROCESS, backbone

IN_ITS_BLOCKS = HeadShape(5, "mask_transformer", False, 6, 1, 16)


def made(shape: HeadShape = IN_ITS_BLOCKS) -> Segmenter:
    vit = backbone()
    head = build_head(shape, vit)
    head.init_weights(torch.Generator().manual_seed(0))
    return Segmenter(vit, head, shape)


def test_every_parameter_that_trains_is_in_one_group() -> None:
    segmenter = made()
    trained = nn.ModuleDict({"backbone": segmenter.backbone, "head": segmenter.head})
    groups = groups_of(trained, HeadOptimConfig(lr=1e-3, backbone_lr=1e-4, layerwise_decay=0.5))
    names = [name for group in groups for name in group.names]
    wanted = {name for name, p in trained.named_parameters() if p.requires_grad}
    assert sorted(names) == sorted(wanted)
    assert "backbone.mask_token" not in wanted
    of = {name: group for group in groups for name in group.names}
    assert of["head.queries"].lr_multiplier == 1
    assert of["head.queries"].wd_multiplier == of["head.classes.bias"].wd_multiplier == 0
    assert of["head.classes.weight"].wd_multiplier == 1
    assert of["backbone.blocks.1.mlp.fc1.weight"].lr_multiplier == pytest.approx(0.1 * 0.5)
    assert of["backbone.blocks.0.mlp.fc1.weight"].lr_multiplier == pytest.approx(0.1 * 0.25)


def test_a_frozen_backbone_has_no_gradient_and_stays_in_eval_mode() -> None:
    segmenter = made(HeadShape(5, "linear", True, 6, 1, 16)).train()
    assert not segmenter.backbone.training
    assert segmenter.head.training
    images, masks = torch.randn(1, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.int32)
    segmenter.loss(images, masks, 255)["cross_entropy_loss"].backward()
    assert all(p.grad is None for p in segmenter.backbone.parameters())


def test_a_convnext_takes_the_linear_head_only() -> None:
    convnext = ConvNeXt(depths=[1, 1, 1, 1], dims=[4, 8, 8, 8])
    build_head(HeadShape(5, "linear", True, 6, 1, 16), convnext)
    with pytest.raises(ConfigError, match="needs a vision transformer"):
        build_head(IN_ITS_BLOCKS, convnext)


def write(folder: Path) -> Segmenter:
    segmenter, shape = made(), IN_ITS_BLOCKS
    about = About(5, shape.kind, False, 6, 1, 16, 24, 16, 0, 255, False, "w", 7)
    folder.mkdir()
    write_segmenter(folder, segmenter, about, Facts(PREPROCESS))
    return segmenter


def test_a_segmenter_reads_back_to_the_bit(tmp_path: Path) -> None:
    before = write(tmp_path / "a").eval()
    after, about = load_segmenter(tmp_path / "a")
    assert (about.step, about.crop) == (7, 24)
    images = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(after(images), before(images))


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 1},
        {"classes": True},
        {"head": "none"},
        {"crop": "24"},
        {"stride": 25},
        {"format_version": 2},
        {"more": 1},
    ],
)
def test_a_description_that_is_damaged_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FinetuneError, match=r"segmenter\.json"):
        load_segmenter(tmp_path / "a")


def test_a_file_from_before_dpt_reads_as_it_did(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / ABOUT
    old = {name: value for name, value in json.loads(path.read_text()).items() if name != "width"}
    path.write_text(json.dumps(old))
    assert load_segmenter(tmp_path / "a")[1].step == 7


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"queries": 7}))
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_segmenter(tmp_path / "a")
