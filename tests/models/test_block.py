from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dinov3.models.block import Block, KeptPair
from dinov3.models.packing import Kept, pack
from dinov3.models.rotary.embedding import RopePositionEmbedding, Rotation
from dinov3.models.vit_config import VitConfig

SIZES = ((4, 5), (3, 5))


def block(layerscale: float | None) -> tuple[Block, list[Rotation]]:
    module = Block(VitConfig(embed_dim=16, num_heads=2, layerscale_init=layerscale))
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    rope = RopePositionEmbedding(8, dtype="fp32")
    rope.init_weights()
    return module, [Rotation.of(rope(2, 2), 1)] * 2


def tokens() -> Tensor:
    return torch.randn(35, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layerscale", [None, 1.0])
def test_a_block_is_two_scaled_residual_branches(layerscale: float | None) -> None:
    module, rotations = block(layerscale)
    x = tokens()
    one = torch.ones(16)
    ls1, ls2 = (one, one) if module.ls1 is None or module.ls2 is None else (module.ls1.gamma, module.ls2.gamma)
    middle = x + ls1 * module.attn(module.norm1(x), SIZES, rotations)
    expected = middle + ls2 * module.mlp(module.norm2(middle))
    assert torch.allclose(module(x, SIZES, rotations), expected, atol=1e-6)


@pytest.mark.parametrize("layerscale", [None, 1.0])
def test_dropped_samples_skip_a_branch_and_kept_ones_count_more(layerscale: float | None) -> None:
    module, rotations = block(layerscale)
    x = tokens()
    torch.manual_seed(0)
    kept = KeptPair(Kept(SIZES, 0.5, x.device), Kept(SIZES, 0.5, x.device))
    out = module(x, SIZES, rotations, kept)
    one = torch.ones(16)
    ls1, ls2 = (one, one) if module.ls1 is None or module.ls2 is None else (module.ls1.gamma, module.ls2.gamma)
    weights = []
    for choice in kept:
        weight = torch.zeros(35, 1)
        weight[choice.rows] = torch.cat(
            [torch.full((n * t, 1), s) for (n, t), s in zip(choice.sizes, choice.scales, strict=True)]
        )
        weights.append(weight)
    middle = x + weights[0] * ls1 * module.attn(module.norm1(x), SIZES, rotations)
    expected = middle + weights[1] * ls2 * module.mlp(module.norm2(middle))
    assert torch.allclose(out, expected, atol=1e-5)
    assert sorted(weights[0].unique().tolist()) == [0.0, 2.0, 3.0]  # 2 of 4 and 1 of 3 kept


def test_branches_run_on_the_kept_rows_only() -> None:
    module, rotations = block(None)
    seen: list[list[int]] = []
    for branch in (module.attn.qkv, module.attn.proj, module.mlp.fc1):
        assert isinstance(branch, nn.Module)
        branch.register_forward_pre_hook(lambda _, args: seen.append([*args[0].shape[:-1]]))
    x = tokens()
    module(x, SIZES, rotations, KeptPair(Kept(SIZES, 0.5, x.device), Kept(SIZES, 0.5, x.device)))
    assert seen == [[2, 5], [1, 5]] * 2 + [[2 * 5 + 1 * 5]]  # attention's matrices entry by entry


def test_one_entry_equals_the_same_entry_in_a_list() -> None:
    module, rotations = block(1.0)
    first, second = tokens().split([20, 15])
    both = module(pack([first.unflatten(0, (4, 5)), second.unflatten(0, (3, 5))]), SIZES, rotations)
    alone = module(first, SIZES[:1], rotations[:1])
    assert torch.allclose(both[:20], alone, atol=1e-6)
