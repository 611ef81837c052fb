"""What stands beside each key of the schema is there and holds for the key's own default."""

from __future__ import annotations

import pytest

from dinov3.config.convert import convert
from dinov3.config.schema import Config
from dinov3.config.spec import Leaf, Spec, arms_of, choices_of, leaves, without_null

LEAVES = list(leaves(Config, Config()))


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.key)
def test_a_default_is_legal_and_has_a_meaning(leaf: Leaf) -> None:
    assert leaf.spec.meaning
    assert leaf.spec.problem_with(leaf.default) is None
    assert convert(leaf.default, leaf.hint, leaf.key) == leaf.default
    assert type(leaf.default) in (type(None), bool, int, float, str, list, dict)
    if isinstance(leaf.default, int | float) and not isinstance(leaf.default, bool) and not choices_of(leaf.hint):
        assert type(leaf.default) in (arms_of(leaf.hint) or (without_null(leaf.hint),))


def test_blocks_do_not_share_their_lists() -> None:
    a, b = Config(), Config()
    a.crops.rgb_mean.append(1.0)
    a.dino.local_loss_weight_schedule.peak = 9.0
    assert b == Config()


def test_names_of_leaves_are_unique_and_in_order() -> None:
    keys = [leaf.key for leaf in LEAVES]
    assert len(set(keys)) == len(keys)
    assert keys[0] == "MODEL.META_ARCHITECTURE"
    assert "schedules.momentum.end" in keys


@pytest.mark.parametrize(
    ("spec", "good", "bad"),
    [
        (Spec("", gt=0), [1e-12, 5], [0, -1]),
        (Spec("", ge=0), [0, 5], [-1e-12]),
        (Spec("", lt=1), [0.999], [1]),
        (Spec("", le=1), [1], [1.0001]),
        (Spec("", ge=0, le=1), [[0.0, 1.0]], [[0.0, 1.1], [-0.1]]),
        (Spec("", length=2, ordered=True), [[1, 1], [1, 2]], [[1], [1, 2, 3], [2, 1]]),
        (Spec("", nonempty=True), ["x"], [""]),
        (Spec("", ge=2), [None, "x", True], [1]),
    ],
)
def test_limits_are_held_at_their_edges(spec: Spec, good: list[object], bad: list[object]) -> None:
    assert [spec.problem_with(v) for v in good] == [None] * len(good)
    assert all(spec.problem_with(v) for v in bad)


def test_a_null_block_is_walked_with_the_defaults_of_its_class() -> None:
    found = {leaf.key: leaf.default for leaf in LEAVES}
    assert found["gram.loss_weight_schedule.cosine_epochs"] is None
