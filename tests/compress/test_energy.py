"""The rules' numbers are golden data (tests/golden); here is what must hold for any weights."""

from __future__ import annotations

import copy

import pytest
import torch

from dinov3.compress.energy import RULES, Spectra, prune
from dinov3.compress.errors import CompressError
from dinov3.compress.surgery import blocks_of, rebuilt
from dinov3.models.shapes import ffn_names
from tests.compress.models import images, vit


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ffn_layer", ["mlp", "swiglu"])
def test_a_share_of_one_changes_nothing_bit_for_bit(rule: str, ffn_layer: str) -> None:
    model = vit(ffn_layer=ffn_layer)
    cut = copy.deepcopy(model)
    prune(cut, rule, 1.0)
    assert torch.equal(rebuilt(cut)(images(2)), model(images(2)))


@pytest.mark.parametrize("rule", RULES)
def test_the_least_share_leaves_one_unit_and_the_outer_shape(rule: str) -> None:
    model = vit()
    cuts = prune(model, rule, 1e-6)
    assert {cut.after for cut in cuts} == {1}
    assert rebuilt(model)(images(2)).shape == (2, 32)


def test_dead_neurons_and_heads_go_first_and_nothing_changes() -> None:
    model = vit()
    with torch.no_grad():
        for block in blocks_of(model):
            block.mlp.fc1.weight[5:15] = 0  # type: ignore[union-attr, operator, index]
            block.mlp.fc2.weight[:, 5:15] = 0  # type: ignore[union-attr, operator, index]
            block.attn.proj.weight[:, 8:16] = 0
    before = model(images(2))
    cuts = [*prune(model, "heads", 0.999999), *prune(model, "mlp", 0.999999)]
    assert [cut.after for cut in cuts] == [3, 3, 54, 54]
    torch.testing.assert_close(rebuilt(model)(images(2)), before, rtol=1e-5, atol=1e-5)


def test_a_rank_that_saves_nothing_is_reported_and_not_used() -> None:
    model = vit()
    before = parameters(model)
    cuts = prune(model, "svd", 0.999)
    kept = [cut for cut in cuts if not cut.replaced]
    assert kept
    assert all(cut.after * (32 + 32) >= 32 * 32 for cut in kept if cut.what in ("q", "k", "v", "proj"))
    assert parameters(model) <= before


def test_the_lost_share_of_a_matrix_is_at_most_one_minus_tau() -> None:
    model = vit(ffn_layer="swiglu")
    cuts = prune(model, "svd", 0.8)
    assert not [cut for cut in cuts if cut.what == "w1"]  # the gate is no target of the rule
    assert all(cut.lost is not None and cut.lost <= 0.2 + 1e-9 for cut in cuts if cut.replaced)


def test_rules_run_twice_measure_what_is_left() -> None:
    model = vit()
    first = prune(model, "heads", 0.7)
    second = prune(model, "heads", 0.7)
    assert [cut.before for cut in second] == [cut.after for cut in first]
    assert rebuilt(model)(images(1)).isfinite().all()


def test_heads_after_svd_are_refused_and_not_silently_skipped() -> None:
    model = vit()
    prune(model, "svd", 0.5)
    with pytest.raises(CompressError, match="proj is a product of two already: put svd and whitened last"):
        prune(model, "heads", 0.5)
    assert ffn_names(blocks_of(model)[0].mlp) == ("fc1", "fc2")


@pytest.mark.parametrize("tau", [0.5, 0.9, 0.99])
def test_a_sketch_has_the_shapes_and_cuts_of_the_real_thing(tau: float) -> None:
    real, sketch, spectra = vit(), vit(), Spectra()
    for _ in range(2):  # the second time from what is kept
        sketch = vit()
        drawn = prune(sketch, "svd", tau, multiple=2, sketch=spectra)
    cuts = prune(real, "svd", tau, multiple=2)
    assert [cut._replace(lost=None) for cut in cuts] == drawn
    assert {k: v.shape for k, v in real.state_dict().items()} == {k: v.shape for k, v in sketch.state_dict().items()}
