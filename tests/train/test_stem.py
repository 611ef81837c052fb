from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dinov3.config.errors import ConfigError
from dinov3.data.sources import parse_dataset
from dinov3.train import stem
from dinov3.train.model import build_model
from tests.train.tiny import tiny_config

STEM = {"student__stem": "whitened", "student__patch_size": 8, "student__embed_dim": 16}


def test_a_run_begins_with_a_stem_made_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "PAIRS", 40)
    source = parse_dataset("Synthetic:n=60:size=32")
    made = [build_model(tiny_config(**STEM), torch.device("cpu"), source=s) for s in (source, source, None)]
    (one, said), (two, _), (drawn, silent) = made
    assert "stem       filters and matrices made of 60 images and 40 pairs of crops" in said
    assert not [line for line in silent if "stem" in line]
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
        if name.startswith("student.backbone."):
            assert torch.equal(tensor, one.state_dict()[name.replace("student.", "model_ema.")])
    filters = "student.backbone.patch_embed.filters.weight"
    assert not torch.equal(one.state_dict()[filters], drawn.state_dict()[filters])


def test_fewer_images_than_channels_make_no_stem() -> None:
    with pytest.raises(
        ConfigError, match=r"student\.stem: whitened, but 10 readable images are not more than .* 16 channels"
    ):
        build_model(tiny_config(**STEM), torch.device("cpu"), source=parse_dataset("Synthetic:n=10:size=32"))


def test_the_pairs_are_two_crops_of_one_image_augmented_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "PAIRS", 12)
    off = dict.fromkeys(
        ("color_jitter_prob", "grayscale_prob", "blur_prob_global_1", "blur_prob_global_2", "solarize_prob_global_2"),
        0.0,
    )
    plain = {f"crops__{name}": value for name, value in off.items()} | {"crops__global_crops_scale": [1.0, 1.0]}
    source = parse_dataset("Synthetic:n=60:size=32")
    cfg = tiny_config(**STEM, **plain)
    pairs = list(stem.pairs_of_crops(cfg, source, torch.device("cpu")))
    first, second = (torch.cat(crops) for crops in zip(*pairs, strict=True))
    assert len(first) >= 12
    one, two = first.mean((2, 3)), second.mean((2, 3))  # of the whole image, mirrored or not
    torch.testing.assert_close(one, two, atol=1e-3, rtol=0)
    assert float((one[:, None] - two[None]).abs().amax(2).fill_diagonal_(1).min()) > 1e-3, "of images that differ"
    coloured = next(stem.pairs_of_crops(tiny_config(**STEM), source, torch.device("cpu")))[0]
    assert not torch.allclose(coloured.mean((2, 3)), one[: len(coloured)], atol=1e-3)


def test_images_without_detail_make_no_stem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "PAIRS", 12)
    for number in range(30):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    with pytest.raises(ConfigError, match=r"student\.stem: whitened, but these images do not differ enough"):
        build_model(tiny_config(**STEM), torch.device("cpu"), source=parse_dataset(str(tmp_path)))
