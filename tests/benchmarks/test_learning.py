"""Recipes that are made smaller, and arms of the rules, are what their names say."""

from __future__ import annotations

import pytest

from benchmarks.learning import LARGE, NOT_OF_A_RECIPE, smaller
from benchmarks.rules import UNTRAINED
from dinov3.config.changes import flatten
from dinov3.config.dump import to_dict
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file


@pytest.mark.parametrize("recipe", LARGE)
def test_a_reduced_recipe_keeps_its_schedules_and_losses(recipe: str) -> None:
    keys = smaller(recipe)
    small = load_config(config_file(recipe), [f"{key}={value}" for key, value in (keys | NOT_OF_A_RECIPE).items()])
    whole = flatten(to_dict(load_config(config_file(recipe))))
    changed = {key for key, value in flatten(to_dict(small)).items() if value != whole.get(key)}
    assert changed <= {*keys, *NOT_OF_A_RECIPE}
    assert (small.student.embed_dim, small.student.depth) == (96, 3)
    assert small.crops.global_crops_size == (32 if recipe == "cifar10_vits" else 64)


def test_an_arm_that_is_not_trained_has_one_step_and_random_has_no_stem_made_of_images() -> None:
    for arm, words in UNTRAINED.items():
        cfg = load_config(config_file("demo_cpu"), words)
        assert cfg.train.max_steps == 1
        assert cfg.student.stem == ("patch" if arm == "random" else "whitened")
