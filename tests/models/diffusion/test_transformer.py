from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dinov3.models.checkpointing import set_mode
from dinov3.models.diffusion.transformer import (
    Conditions,
    DiffusionTransformer,
    DitBlock,
    DitSpec,
    latents_of,
    tokens_of,
)

SPEC = DitSpec(channels=4, text_width=20, feature_width=24, width=32, depth=2, heads=4)
B, L = 3, 6


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(spec: DitSpec = SPEC, *, learned: bool = True) -> DiffusionTransformer:
    """``learned``: no weight is zero, so that everything acts on the output."""
    made = DiffusionTransformer(spec)
    made.init_weights(torch.Generator().manual_seed(0))
    if learned:
        random = torch.Generator().manual_seed(1)
        for name, parameter in made.named_parameters():
            if not name.endswith("visual_bias"):
                parameter.data.normal_(0, 0.15, generator=random)
    return made.eval()


def known(grid: tuple[int, int] = (2, 4), batch: int = B, seed: int = 0) -> Conditions:
    mask = torch.ones(batch, L, dtype=torch.bool)
    mask[1:, 4:] = False
    off = torch.zeros(batch, dtype=torch.bool)
    text, cls = noise(batch, L, 20, seed=seed), noise(batch, 24, seed=seed + 1)
    return Conditions(text, mask, cls, noise(batch, grid[0] * grid[1], 24, seed=seed + 2), grid, off, off)


def asked(network: DiffusionTransformer, conditions: Conditions, size: tuple[int, int] = (4, 8)) -> Tensor:
    batch = len(conditions.cls)
    with torch.no_grad():
        return network(noise(batch, 4, *size, seed=9), torch.linspace(0.1, 0.9, batch), conditions)


def rows(*on: int) -> Tensor:
    return torch.tensor([row in on for row in range(B)])


def test_tokens_are_two_by_two_cells_row_by_row_and_go_back() -> None:
    z = noise(2, 3, 4, 6)
    tokens = tokens_of(z)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(tokens[0, 4].reshape(3, 2, 2), z[0, :, 2:4, 2:4])
    assert torch.equal(latents_of(tokens, 2, 3), z)


@pytest.mark.parametrize("size", [(16, 8), (8, 16), (2, 2)])
def test_the_output_has_the_latents_shape_with_the_same_weights(size: tuple[int, int]) -> None:
    assert asked(model(), known((size[0] // 2, size[1] // 2)), size).shape == (B, 4, *size)


def test_at_the_start_every_block_is_the_identity_and_the_output_zero() -> None:
    fresh = model(learned=False)
    x, context = noise(B, 8, 32), noise(B, 15, 32)
    for block in fresh.blocks:
        assert isinstance(block, DitBlock)
        assert torch.equal(block(x, noise(B, 32), context, torch.ones(B, L, dtype=torch.bool)), x)
    assert not asked(fresh, known()).any()


def test_the_context_is_text_then_class_token_then_patches() -> None:
    network = model()
    context, mask = network.context(known())
    assert context.shape == (B, L + 1 + 8, 32)
    assert mask.shape == (B, L)
    assert torch.equal(context[:, L], network.dino_cls_proj(known().cls)), (
        "the token of the class does not know the time"
    )


def test_of_padded_text_nothing_reaches_the_output() -> None:
    usual = known()
    other = usual._replace(text=torch.where(usual.text_mask[..., None], usual.text, torch.nan))
    assert torch.equal(asked(model(), usual), asked(model(), other))


def test_a_text_that_is_all_padding_is_no_text() -> None:
    usual = known()
    empty = usual._replace(text_mask=usual.text_mask & ~rows(2)[:, None])
    found = asked(model(), empty)
    assert found.isfinite().all()
    assert torch.equal(found, asked(model(), usual._replace(without_text=rows(2))))


@pytest.mark.parametrize(("dropped", "parts"), [("without_text", ["text"]), ("without_features", ["cls", "patches"])])
def test_of_a_dropped_condition_nothing_reaches_the_output_and_other_rows_keep_theirs(
    dropped: str, parts: list[str]
) -> None:
    network, usual, strange = model(), known(), known(seed=50)
    without = usual._replace(**{dropped: rows(0)})
    other = without._replace(
        **{part: torch.cat([getattr(strange, part)[:1], getattr(usual, part)[1:]]) for part in parts}
    )
    found = asked(network, without)
    assert torch.equal(found, asked(network, other))
    whole = asked(network, usual)
    assert torch.equal(found[1:], whole[1:])
    assert not torch.equal(found[:1], whole[:1])


def test_a_dropped_grid_has_no_places() -> None:
    context, _ = model().context(known()._replace(without_features=rows(0)))
    patches = context[:, L + 1 :]
    assert torch.equal(patches[0], patches[0, :1].expand(8, -1))


@pytest.mark.parametrize(("positions", "changes"), [(True, True), (False, False)])
def test_the_order_of_patches_matters_where_they_are_told_their_place(positions: bool, changes: bool) -> None:
    network, usual = model(replace(SPEC, positions=positions)), known()
    turned = usual._replace(patches=usual.patches.flip(1))
    assert torch.allclose(asked(network, usual), asked(network, turned), atol=1e-5) is not changes


def test_without_patches_the_context_ends_with_the_class_token() -> None:
    network = model(replace(SPEC, patches=False))
    assert network.context(known())[0].shape == (B, L + 1, 32)
    assert torch.equal(asked(network, known()), asked(network, known()._replace(patches=noise(B, 8, 24, seed=70))))


def test_a_bias_of_minus_infinity_is_the_model_of_text_alone() -> None:
    alone = model(replace(SPEC, feature_width=0))
    sees = DiffusionTransformer(replace(SPEC, visual_bias=-float("inf")))
    sees.init_weights(torch.Generator().manual_seed(3))
    state = sees.state_dict()
    state.update(alone.state_dict())
    sees.load_state_dict(state)
    assert (asked(alone, known()) - asked(sees.eval(), known())).abs().max() < 1e-6


def test_rows_do_not_know_each_other() -> None:
    network, usual = model(), known()
    one = Conditions(*(part[1:2] if isinstance(part, Tensor) else part for part in usual))
    with torch.no_grad():
        alone = network(noise(B, 4, 4, 8, seed=9)[1:2], torch.tensor([0.5]), one)
    torch.testing.assert_close(alone, asked(network, usual)[1:2], rtol=0, atol=1e-5)


def test_gradients_reach_every_weight_and_are_the_same_when_blocks_are_computed_again() -> None:
    network, conditions = model(replace(SPEC, visual_bias=-1.0)).train(), known()._replace(without_features=rows(0))
    conditions = conditions._replace(without_text=rows(1))
    gradients = []
    for mode in ("none", "full"):
        set_mode(network, mode)
        network.zero_grad()
        network(noise(B, 4, 4, 8, seed=9), torch.tensor([0.1, 0.5, 0.9]), conditions).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == {name for name, _ in network.named_parameters()}
    assert all(grad.abs().sum() > 0 for grad in gradients[0].values())
    assert all((gradients[0][name] - gradients[1][name]).abs().max() < 1e-5 for name in gradients[0])


def test_what_cannot_be_put_in_is_said() -> None:
    with pytest.raises(ValueError, match="even H and W"):
        asked(model(), known(), (5, 8))
    with pytest.raises(ValueError, match="not a grid of 2 x 4"):
        asked(model(), known()._replace(patches=noise(B, 7, 24)))
    with pytest.raises(ValueError, match="4 must divide"):
        replace(SPEC, width=30, heads=5)
