from __future__ import annotations

import pytest
import torch

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
