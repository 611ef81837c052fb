"""A key that would do nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.schema import OptimConfig, StartConfig, TrainConfig
from dinov3.config.spec import hints
from dinov3.finetune.config import (
    CLASSIFY,
    ClassifyConfig,
)
from dinov3.finetune.kinds import KINDS, kind_of

GIVEN = ["model.weights=w", "train.dataset_path=d"]


@pytest.mark.parametrize(
    "word",
    [
        *(f"optim.{name}=1" for name in ("patch_embed_lr_mult", "dino_head_wd_multiplier", "freeze_last_layer_epochs")),
        *("optim.scaling_rule=none", "optim.weight_decay_end=1", "train.OFFICIAL_EPOCH_LENGTH=5", "train.compile=true"),
        *("start.student=ema", "crops.global_crops_size=32", "student.arch=vit_small"),
    ],
)
def test_a_key_that_only_pretraining_reads_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"{word.partition('.')[0]}.*unknown key"):
        load_config(None, [*GIVEN, word], CLASSIFY)


def test_pretraining_keeps_its_keys() -> None:
    for block, name in (
        (OptimConfig, "layerwise_decay"),
        (TrainConfig, "OFFICIAL_EPOCH_LENGTH"),
        (StartConfig, "student"),
    ):
        assert name in hints(block)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["optim.backbone_lr=1"], "optim.backbone_lr"),
        (["optim.norms_bias_lr=1"], "optim.norms_bias_lr"),
        (["optim.layerwise_decay=0.5"], "optim.layerwise_decay"),
        (["lora.rank=4"], "lora.rank"),
        (["model.method=fullft", "model.train_norms_bias=norms"], "model.train_norms_bias"),
        (["train.cache=c", "augment.preset=flips"], "train.cache"),
        (["evaluation.period=5"], "evaluation.period"),
        (["evaluation.validation=d"], "evaluation.validation"),
        (["evaluation.validation=v", "evaluation.test=v"], "evaluation.test"),
        (["optim.min_lr=1"], "optim.min_lr"),
    ],
)
def test_what_contradicts_is_named(words: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*GIVEN, *words], CLASSIFY)
    assert caught.value.key == key


def test_the_key_task_chooses_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("task: classify\n")
    assert kind_of(path, []).schema.root is ClassifyConfig
    for name in KINDS:
        assert kind_of(None, [f"task={name}"]).schema.root.__name__.endswith("Config")
    path.write_text("task: [1]\n")
    with pytest.raises(ConfigError, match=r"task: .*choose classify"):
        kind_of(path, [])
