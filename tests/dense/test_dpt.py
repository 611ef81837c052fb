"""DPT's decoder: which layers it reads, the size of what it says, and that every layer is heard."""

from __future__ import annotations

import pytest
import torch

from dinov3.dense.dpt import LAYERS, Dpt, layers_of, levels_of
from tests.finetune.tiny import backbone


@pytest.mark.parametrize(
    ("blocks", "layers"),
    [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (40, [9, 19, 29, 39]), (3, [0, 1, 2, 2]), (1, [0, 0, 0, 0])],
)
def test_layers_are_at_each_quarter_of_the_depth(blocks: int, layers: list[int]) -> None:
    assert layers_of(blocks) == layers


@pytest.mark.parametrize("grid", [(2, 4), (3, 5), (1, 1)])
def test_it_says_eight_numbers_a_patch_side_and_hears_every_layer(grid: tuple[int, int]) -> None:
    decoder = Dpt(16, 3, 8)
    decoder.init_weights(torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    levels = [
        (
            torch.randn(2, 16, *grid, generator=random).requires_grad_(),
            torch.randn(2, 16, generator=random).requires_grad_(),
        )
        for _ in range(LAYERS)
    ]
    said = decoder(levels)
    assert said.shape == (2, 3, 8 * grid[0], 8 * grid[1])
    said.square().sum().backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for level in levels for part in level)


def test_levels_are_the_backbones_layers_the_last_one_normed_as_its_output() -> None:
    vit, images = backbone(), torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    levels = levels_of(vit, images)
    assert [level[0].shape for level in levels] == [(1, 16, 2, 3)] * 4
    out = vit(images, is_training=True)
    torch.testing.assert_close(levels[-1][0].flatten(2).mT, out.patches)
    torch.testing.assert_close(levels[-1][1], out.cls)
    assert torch.equal(levels[0][0], levels[1][0])  # of two blocks, each is read twice


def test_the_same_seed_is_the_same_decoder() -> None:
    first, second = Dpt(16, 3, 8), Dpt(16, 3, 8)
    for decoder in (first, second):
        decoder.init_weights(torch.Generator().manual_seed(0))
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())
