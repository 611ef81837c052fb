"""The queries among the tokens: what they see, what they change, and that every weight is drawn and learns."""

from __future__ import annotations

import pytest
import torch

from dinov3.segment.mask_transformer import MaskTransformer
from tests.finetune.tiny import backbone

IMAGES = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def head(*, own_blocks: bool, patch: int = 8, **settings: object) -> tuple[MaskTransformer, torch.nn.Module]:
    vit = backbone(patch_size=patch, **settings)
    made = MaskTransformer(vit.config, 5, 6, 1, own_blocks=own_blocks)
    made.init_weights(torch.Generator().manual_seed(1))
    return made, vit


def test_without_queries_the_backbone_sees_what_it_always_saw() -> None:
    vit = backbone()
    for blocks in (1, 2):
        queries, patches, grid = vit.encode_with(IMAGES, torch.zeros(0, 16), blocks)
        plain = vit(IMAGES, is_training=True)
        assert queries.shape == (2, 0, 16)
        assert grid == plain.grid == (3, 4)
        torch.testing.assert_close(patches, plain.patches)


def test_queries_and_patches_see_each_other_in_the_last_blocks_only() -> None:
    vit, queries = backbone(), torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    found, patches, _ = vit.encode_with(IMAGES, queries, 1)
    other, _, _ = vit.encode_with(IMAGES.flip(0), queries, 1)
    assert found.shape == (2, 3, 16)
    assert not torch.allclose(found, other)
    assert not torch.allclose(patches, vit(IMAGES, is_training=True).patches)
    order = torch.tensor([2, 0, 1])  # queries have no position
    turned, same, _ = vit.encode_with(IMAGES, queries[order], 1)
    torch.testing.assert_close(turned, found[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(same, patches, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own_blocks", [False, True])
@pytest.mark.parametrize("settings", [{}, {"norm_layer": "rmsnorm", "ffn_layer": "swiglu"}, {"mask_k_bias": True}])
def test_every_weight_is_drawn_and_every_one_of_the_head_learns(own_blocks: bool, settings: dict[str, object]) -> None:
    made, vit = head(own_blocks=own_blocks, **settings)
    assert all(bool(tensor.isfinite().all()) for tensor in made.state_dict().values())
    truth = torch.randint(0, 5, (2, 24, 32), generator=torch.Generator().manual_seed(3))
    torch.stack([*made.loss(vit, IMAGES, truth, 255).values()]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
    seen = {name: p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in vit.named_parameters()}
    assert any(seen.values()) is not own_blocks


@pytest.mark.parametrize(("patch", "sides"), [(4, (12, 16)), (8, (6, 8))])
def test_masks_are_finer_than_patches(patch: int, sides: tuple[int, int]) -> None:
    made, vit = head(own_blocks=True, patch=patch)
    said = made(vit, IMAGES)
    assert said.classes.shape == (2, 6, 6)
    assert said.masks.shape == (2, 6, *sides)
    assert made.scores(vit, IMAGES).shape == (2, 5, *sides)


def test_a_pixel_has_the_class_of_the_query_whose_mask_it_is_in() -> None:
    made, vit = head(own_blocks=True)
    said = made(vit, IMAGES)
    expected = torch.zeros(2, 5, *said.masks.shape[2:])
    for query in range(6):
        for number in range(5):
            share = said.classes[:, query].softmax(1)[:, number]
            expected[:, number] += share[:, None, None] * said.masks[:, query].sigmoid()
    torch.testing.assert_close(made.scores(vit, IMAGES), expected)


def test_the_same_seed_is_the_same_head() -> None:
    first, second = (head(own_blocks=True)[0].state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
