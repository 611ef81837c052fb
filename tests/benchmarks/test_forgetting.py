"""The arms of the benchmark of forgetting are what their names say."""

from __future__ import annotations

import pytest

from benchmarks.forgetting import ALL, NOTHING, RECIPE, WITHOUT, changes
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config


def on(cfg: Config) -> set[str]:
    """What of the recipe is on."""
    parts = {
        "feature anchor": cfg.feature_anchor.enabled,
        "head warm-up": cfg.head_warmup.when != "never",
        "layer-wise decay": cfg.optim.layerwise_decay < 1,
        "low rate": cfg.optim.lr < 0.001,
        "slow teacher": cfg.teacher.momentum_teacher > 0.9,
    }
    return {name for name, is_on in parts.items() if is_on}


@pytest.mark.parametrize("arm", [ALL, NOTHING, *WITHOUT])
def test_an_arm_has_its_own_part_and_no_other(arm: str) -> None:
    expected = {ALL: set(WITHOUT), NOTHING: set()}.get(arm, {arm})
    assert on(load_config(config_file(RECIPE), changes(arm))) == expected
