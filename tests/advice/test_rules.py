from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dinov3.advice.choices import choices_for, words_of
from dinov3.advice.computed import batch_of
from dinov3.advice.facts import Case, Images, Machine, described_weights
from dinov3.advice.rules import RULES
from dinov3.config.checks_continued import steps_of
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from tests.test_readme import write_weights

PHOTOS = Images("photos", 20_000, "photos", median_side=400)
CPU, GPU = Machine(8), Machine(16, 1, "a card", 24.0)


def config(case: Case) -> Config:
    return load_config(None, words_of(choices_for(case)))


@pytest.mark.parametrize("images", [1, 3, 8, 60, 3000, 50_000, 2_000_000])
@pytest.mark.parametrize("side", [16, 32, 64, 200, 2000])
@pytest.mark.parametrize("machine", [CPU, GPU, Machine(64, 8, "a card", 80.0), Machine(2, 1, "small", 0.5)])
def test_every_case_gives_a_config_that_loads(images: int, side: int, machine: Machine) -> None:
    cfg = config(Case(replace(PHOTOS, images=images, median_side=side), machine))
    assert 1 <= cfg.train.batch_size_per_gpu <= max(1, images)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    write_weights(
        folder, "student.embed_dim=48", "student.depth=2", "student.num_heads=2", "crops.global_crops_size=32"
    )
    return str(folder)


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("goal", ["continue", "distill", "high-res"])
def test_a_goal_with_weights_gives_a_config_that_loads(goal: str, machine: Machine, weights: str) -> None:
    cfg = config(Case(PHOTOS, machine, goal, weights))
    if goal == "distill":
        assert cfg.feature_distillation.checkpoint == weights
        assert cfg.dino.loss_weight == 0
    else:
        assert (cfg.student.pretrained_weights, cfg.student.embed_dim, cfg.student.depth) == (weights, 48, 2)
    assert cfg.gram.use_loss == (goal == "high-res")
    assert cfg.feature_anchor.enabled == (goal == "continue")


def test_the_architecture_is_that_of_the_weights(weights: str) -> None:
    about = described_weights(weights)
    assert (about["embed_dim"], about["depth"], about["n_storage_tokens"]) == (48, 2, 4)
    assert about["norm_layer"] == "layernormbf16"
    assert Path(weights).is_dir()


def test_a_larger_card_gets_a_larger_batch_and_none_gets_more_than_there_are_images() -> None:
    sizes = [batch_of(Case(PHOTOS, Machine(8, 1, "card", memory))) for memory in (8, 24, 80)]
    assert sizes == [32, 64, 256]
    assert batch_of(Case(replace(PHOTOS, images=5), CPU)) == 5
    assert batch_of(Case(replace(PHOTOS, images=60), CPU)) == 32


def test_what_is_asked_of_the_data_changes_what_it_should() -> None:
    odd = replace(
        PHOTOS, channels=4, mean=(0.5,) * 4, std=(0.2,) * 4, values=(3.0, 1000.0), unreadable=0.05, copies=0.2
    )
    cfg = config(Case(odd, CPU))
    assert (cfg.student.in_chans, cfg.data.value_range, cfg.data.max_bad_frac) == (4, [0, 1023], 0.105)
    assert cfg.dino.koleo_loss_weight == 0
    assert config(Case(PHOTOS, CPU)).dino.koleo_loss_weight == 0.05


def test_every_rule_says_when_and_why() -> None:
    for subject, rules in RULES.items():
        assert subject
        assert all(rule.when and rule.why for rule in rules)
        assert len({rule.when for rule in rules}) == len(rules)


def test_what_differs_in_shape_only_is_trained_like_the_demo() -> None:
    data = replace(PHOTOS, images=4000, median_side=64)
    plain, shape = (config(Case(data, CPU, shape_only=only)) for only in (False, True))
    demo = load_config(config_file("demo_cpu"))
    assert (shape.optim.lr, shape.dino.koleo_loss_weight) == (demo.optim.lr, demo.dino.koleo_loss_weight)
    assert steps_of(shape) == steps_of(demo) == 3 * steps_of(plain)
    assert (shape.crops.hue, shape.crops.grayscale_prob) == (demo.crops.hue, demo.crops.grayscale_prob)
    large = config(Case(replace(PHOTOS, images=100_000), GPU, shape_only=True))
    assert large.crops.color_jitter_prob == 1.0


def test_small_images_on_a_cpu_get_whitened_patches_when_there_are_enough_of_them() -> None:
    for side, crop in ((32, 32), (64, 32), (200, 96)):
        for images, stem in ((999, "patch"), (1000, "whitened" if side < 128 else "patch")):
            cfg = config(Case(replace(PHOTOS, images=images, median_side=side), CPU))
            assert cfg.student.stem == stem
            assert stem == "patch" or cfg.crops.global_crops_size == crop
    assert config(Case(replace(PHOTOS, median_side=32), GPU)).student.stem == "patch"
