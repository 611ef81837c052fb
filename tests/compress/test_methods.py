from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3.compress.costs import UNITS, Costs
from dinov3.compress.errors import CompressError
from dinov3.compress.measure import closeness
from dinov3.compress.methods import CALIBRATED, Settings, Step, compress, energy_steps, equal_shares
from dinov3.models.shapes import shape_of
from dinov3.models.vit import DinoVisionTransformer
from tests.compress.models import batches, images, vit

TOKENS = 18
SETTINGS = Settings(Costs("parameters", TOKENS, 32))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("method", CALIBRATED)
def test_a_budget_is_met_and_nearly_spent(method: str, unit: str) -> None:
    model = vit()
    settings = Settings(Costs(unit, TOKENS, 32), refit=False)
    small, cuts = compress(model, [Step(method, 0.8)], settings, batches(16))
    left = settings.costs.model(small) / settings.costs.model(model)
    assert 0.77 < left <= 0.8
    assert cuts


@pytest.mark.parametrize("ffn_layer", ["mlp", "swiglu"])
def test_what_images_tell_keeps_more_than_weights_alone(ffn_layer: str) -> None:
    """The method's point: at the same size its tokens of other images are nearer, each method by itself."""
    model = vit(ffn_layer=ffn_layer, depth=3)
    others = batches(16, seed=9)
    lost = {}
    for rules in (["mlp"], ["svd"], ["heads", "mlp"]):
        steps, _ = energy_steps(model, rules, 0.75, SETTINGS)
        lost["+".join(rules)] = 1 - closeness(compress(model, steps, SETTINGS)[0], model, others)[-1].mean
    for method in CALIBRATED:
        small, _ = compress(model, [Step(method, 0.75)], SETTINGS, batches(64))
        lost[method] = 1 - closeness(small, model, others)[-1].mean
    assert lost["variance"] < lost["mlp"]
    assert lost["compensate"] < 0.5 * lost["heads+mlp"]
    assert lost["whitened"] < 0.7 * lost["svd"]


def test_layerscale_decides_which_blocks_are_cut() -> None:
    """A branch that LayerScale mutes says nothing: the energy rule cannot see that, the calibrated methods must."""
    model = vit(depth=2)
    with torch.no_grad():
        model.blocks[1].ls2.gamma.fill_(1e-4)  # type: ignore[union-attr, operator]
    small: Any = compress(model, [Step("variance", 0.86)], SETTINGS, batches(16))[0]
    loud, muted = (shape_of(block).hidden for block in small.blocks)
    assert loud == 64
    assert muted < 32
    pruned: Any = compress(model, energy_steps(model, ["mlp"], 0.86, SETTINGS)[0], SETTINGS)[0]
    assert shape_of(pruned.blocks[0]).hidden < 64


@pytest.mark.parametrize("method", CALIBRATED)
def test_widths_and_ranks_are_multiples_of_eight_or_whole(method: str) -> None:
    settings = Settings(Costs("parameters", TOKENS, 32), multiple=8)
    small: Any = compress(vit(embed_dim=64, num_heads=4), [Step(method, 0.7)], settings, batches(16))[0]
    for block in small.blocks:
        shape = shape_of(block)
        assert shape.hidden % 8 == 0
        assert all(rank % 8 == 0 for rank in shape.ranks.values())


def test_the_given_model_is_not_touched_and_the_result_is_the_same_twice() -> None:
    model = vit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    results = [compress(model, [Step("compensate", 0.7)], SETTINGS, batches(16))[0] for _ in range(2)]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(results[0](images(3)), results[1](images(3)))


def test_methods_follow_one_another_down_to_the_budget() -> None:
    model = vit()
    steps = equal_shares(["compensate", "whitened"], 0.5)
    assert [round(step.amount, 6) for step in steps] == [round(0.5**0.5, 6), 0.5]
    small, cuts = compress(model, steps, SETTINGS, batches(16))
    assert SETTINGS.costs.model(small) <= 0.5 * SETTINGS.costs.model(model)
    assert {cut.what for cut in cuts} >= {"heads", "neurons", "q", "fc1"}


def test_the_energy_rules_meet_a_budget_with_one_share_for_all() -> None:
    model = vit()
    steps, left = energy_steps(model, ["heads", "mlp", "svd"], 0.6, SETTINGS)
    assert len({step.amount for step in steps}) == 1
    assert 0.5 < left <= 0.6
    assert energy_steps(model, ["mlp"], 1.0, SETTINGS)[0] == [Step("mlp", 1.0)]
    with pytest.raises(CompressError, match="even one unit a layer"):
        energy_steps(model, ["heads"], 0.1, SETTINGS)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    model = vit(ffn_bias=False)
    with pytest.raises(CompressError, match="fc2 has no bias to fold a mean into: use compensate"):
        compress(model, [Step("variance", 0.8)], SETTINGS, batches(8))
    with pytest.raises(CompressError, match="leaves at least"):
        compress(model, [Step("whitened", 0.01)], SETTINGS, batches(8))
    with pytest.raises(CompressError, match="put svd and whitened last"):
        compress(model, [Step("whitened", 0.7), Step("compensate", 0.6)], SETTINGS, batches(8))
    with pytest.raises(CompressError, match="no calibration images"):
        compress(model, [Step("compensate", 0.6)], SETTINGS)


def test_without_a_bias_compensation_still_fits() -> None:
    model = vit(ffn_bias=False, proj_bias=False, qkv_bias=False)
    small, _ = compress(model, [Step("compensate", 0.75)], SETTINGS, batches(32))
    assert isinstance(small, DinoVisionTransformer)
    assert closeness(small, model, batches(8, seed=4))[-1].mean > 0.9
