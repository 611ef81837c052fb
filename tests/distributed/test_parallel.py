from __future__ import annotations

import pytest
import torch

from dinov3.config.errors import ConfigError
from dinov3.distributed import parallel
from dinov3.distributed.parallel import Parallel, choose

LARGE, HUGE, GIANT = 350, 900, 6_800  # millions of parameters: ViT-L, ViT-H+ and ViT-7B with their heads


@pytest.fixture
def decide(monkeypatch: pytest.MonkeyPatch):
    def decide(strategy: str, millions: int, world: int, per_machine: int | None = None) -> Parallel:
        monkeypatch.setattr(parallel, "world_size", lambda: world)
        kinds = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "device_type": "cpu"}
        kinds["per_machine"] = world if per_machine is None else per_machine
        return choose(strategy, trained=millions * 10**6, frozen=millions * 10**6, **kinds)

    return decide


@pytest.mark.parametrize(
    ("millions", "world", "per_machine", "expected"),
    [
        (GIANT, 1, 1, "NO_SHARD"),
        (LARGE, 8, 8, "NO_SHARD"),  # 20 bytes a parameter: 7 GB
        (HUGE, 8, 8, "SHARD_GRAD_OP"),  # 18 GB
        (HUGE, 32, 8, "_HYBRID_SHARD_ZERO2"),  # 2.3 GB a process when every machine shards for itself
        (GIANT, 8, 8, "SHARD_GRAD_OP"),  # 136 GB, 13.6 of them gathered in bf16
        (GIANT, 16, 4, "SHARD_GRAD_OP"),  # 34 GB a process would be too much for one machine's shards
        (2 * GIANT, 64, 8, "FULL_SHARD"),  # 27 GB of gathered weights are not kept
    ],
)
def test_auto_shards_as_little_as_memory_allows(decide, millions, world, per_machine, expected) -> None:
    chosen = decide("auto", millions, world, per_machine)
    assert chosen.strategy == expected
    assert world == 1 or "auto: weights, gradients and moments take" in str(chosen)


@pytest.mark.parametrize(
    ("strategy", "shards", "gathers_again"),
    [
        ("NO_SHARD", False, True),
        ("SHARD_GRAD_OP", True, False),
        ("FULL_SHARD", True, True),
        ("HYBRID_SHARD", True, True),
        ("_HYBRID_SHARD_ZERO2", True, False),
    ],
)
def test_a_named_strategy_is_taken_whatever_the_size(decide, strategy, shards, gathers_again) -> None:
    for millions in (1, GIANT):
        chosen = decide(strategy, millions, 16, 8)
        assert (chosen.strategy, chosen.shards, chosen.reshard_after_forward) == (strategy, shards, gathers_again)


def test_hybrid_needs_equal_machines(decide) -> None:
    with pytest.raises(ConfigError, match="HYBRID_SHARD needs equally many processes on every machine, here 8 of 20"):
        decide("HYBRID_SHARD", GIANT, 20, 8)
