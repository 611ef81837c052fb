"""The model, its loss, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dinov3.config.errors import ConfigError
from dinov3.dense.depth_losses import sig_loss
from dinov3.depth.estimator import Estimator, HeadShape, build_head
from dinov3.depth.estimator_file import PRODUCT, About, load_estimator, write_estimator
from dinov3.finetune.errors import FinetuneError
from dinov3.models.convnext import ConvNeXt
from dinov3.weights.provenance import Facts
from tests.finetune.tiny import PREPROCESS, backbone

SHAPE = {"frozen": True, "width": 16, "bins": 8, "bin_rule": "log", "norm": "linear", "low": 0.5, "high": 60.0}
ABOUT = {**SHAPE, "units": 1000.0, "crop_height": 24, "crop_width": 32, "short_side": 0, "flip": True, "eigen": False}
IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
DEPTHS = 1 + 20 * torch.rand(2, 16, 24, generator=torch.Generator().manual_seed(1))


def made(kind: str = "dpt", **changes: object) -> Estimator:
    vit, shape = backbone(), HeadShape(kind, **(SHAPE | changes))
    head = build_head(shape, vit)
    head.init_weights(torch.Generator().manual_seed(3))
    return Estimator(vit, head, shape).eval()


@pytest.mark.parametrize("kind", ["linear", "dpt"])
@pytest.mark.parametrize("size", [(24, 24), (19, 33), (7, 5)])
def test_images_of_any_size_have_depths_of_that_size_between_the_bounds(kind: str, size: tuple[int, int]) -> None:
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        depth = made(kind)(images)
    assert depth.shape == (1, 1, *size)
    assert depth.min() >= 0.5
    assert depth.max() <= 60


def test_a_batch_costs_the_mean_of_its_images_and_one_without_a_truth_nothing() -> None:
    estimator, truths = made(), DEPTHS.clone()
    each = [estimator.loss(IMAGES[i : i + 1], truths[i : i + 1], warm=False)["sig_loss"] for i in (0, 1)]
    torch.testing.assert_close(estimator.loss(IMAGES, truths, warm=False)["sig_loss"], (each[0] + each[1]) / 2)
    depth = estimator(IMAGES[:1])
    by_hand = sig_loss(depth, truths[:1, None], torch.ones(1, 1, 16, 24, dtype=torch.bool), warm=False)
    torch.testing.assert_close(each[0], by_hand)
    truths[1] = 0
    torch.testing.assert_close(estimator.loss(IMAGES, truths, warm=False)["sig_loss"], each[0] / 2)


def test_gradients_reach_every_parameter_of_the_head_and_none_of_a_frozen_backbone() -> None:
    estimator = made().train()
    estimator.loss(IMAGES, DEPTHS, warm=False)["sig_loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in estimator.head.parameters())
    assert all(p.grad is None for p in estimator.backbone.parameters())
    assert not estimator.backbone.training


def test_dpt_is_for_vision_transformers() -> None:
    convnext = ConvNeXt(depths=[1, 1, 1, 1], dims=[4, 8, 8, 8])
    build_head(HeadShape("linear", **SHAPE), convnext)
    with pytest.raises(ConfigError, match="dpt needs a vision transformer"):
        build_head(HeadShape("dpt", **SHAPE), convnext)


def write(folder: Path) -> Estimator:
    estimator = made()
    folder.mkdir()
    write_estimator(folder, estimator, About(head="dpt", weights="w", step=7, **ABOUT), Facts(PREPROCESS))
    return estimator


def test_an_estimator_reads_back_to_the_bit(tmp_path: Path) -> None:
    before = write(tmp_path / "a")
    after, about = load_estimator(tmp_path / "a")
    assert (about.step, about.high) == (7, 60)
    with torch.no_grad():
        assert torch.equal(after(IMAGES), before(IMAGES))


@pytest.mark.parametrize(
    "change", [{"head": "none"}, {"bins": 1}, {"low": 60}, {"norm": "x"}, {"flip": 1}, {"more": 1}]
)
def test_a_description_that_is_damaged_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / PRODUCT.file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FinetuneError, match=r"estimator\.json: damaged"):
        load_estimator(tmp_path / "a")
