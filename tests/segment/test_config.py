"""What contradicts in a segmentation run is named."""

from __future__ import annotations

import pytest

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.finetune.kinds import kind_of
from dinov3.segment.config import (
    SEGMENT,
    SegmentConfig,
    stride_of,
)

GIVEN = ["model.weights=w", "train.dataset_path=d"]


def test_task_segment_is_this_schema() -> None:
    assert kind_of(None, ["task=segment"]).schema.root is SegmentConfig


def test_windows_overlap_by_a_third() -> None:
    assert stride_of(load_config(None, [*GIVEN, "augment.crop=512"], SEGMENT)) == 341  # as DINOv3's ADE20K protocol


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["evaluation.stride=600"], "evaluation.stride"),
        (["train.classes=300"], "train.ignore"),
        (["optim.min_lr=1"], "optim.min_lr"),
        (["optim.layerwise_decay=0.5"], "optim.layerwise_decay"),
        (["model.queries=5"], "model.queries"),
        (["model.query_blocks=5"], "model.query_blocks"),
        (["optim.patch_embed_lr_mult=1"], "optim.patch_embed_lr_mult"),
    ],
)
def test_what_contradicts_is_named(words: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*GIVEN, *words], SEGMENT)
    assert caught.value.key == key
