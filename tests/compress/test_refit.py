from __future__ import annotations

import copy

import torch

from dinov3.compress.energy import prune
from dinov3.compress.measure import closeness
from dinov3.compress.refit import refit
from dinov3.compress.surgery import rebuilt
from dinov3.weights.parity import tokens_of
from tests.compress.models import batches, images, vit


def test_an_uncut_model_is_already_the_best_fit() -> None:
    model = vit()
    again = copy.deepcopy(model)
    refit(again, model, batches())
    torch.testing.assert_close(tokens_of(again, images(4)), tokens_of(model, images(4)), rtol=1e-4, atol=1e-4)


def test_other_images_are_nearer_afterwards_also_with_a_gated_network_and_products() -> None:
    for ffn_layer, rule, tau in (
        ("mlp", "mlp", 0.8),
        ("swiglu", "mlp", 0.8),
        ("mlp", "svd", 0.8),
        ("mlp", "heads", 0.7),
    ):
        model = vit(ffn_layer=ffn_layer)
        cut = copy.deepcopy(model)
        prune(cut, rule, tau)
        others = batches(16, seed=5)
        before = closeness(rebuilt(copy.deepcopy(cut)), model, others)[-1].mean
        refit(cut, model, batches(64))
        after = closeness(rebuilt(cut), model, others)[-1].mean
        assert 1 - after < 0.6 * (1 - before), (ffn_layer, rule, before, after)


def test_channels_that_layerscale_mutes_are_left_alone() -> None:
    model = vit()
    with torch.no_grad():
        model.blocks[0].ls2.gamma[3] = 0.0  # type: ignore[union-attr, index, operator]
    cut = copy.deepcopy(model)
    prune(cut, "mlp", 0.8)
    row = cut.blocks[0].mlp.fc2.weight[3].clone()  # type: ignore[union-attr, index]
    refit(cut, model, batches())
    assert torch.equal(cut.blocks[0].mlp.fc2.weight[3], row)  # type: ignore[union-attr, index]
    assert rebuilt(cut)(images(2)).isfinite().all()


def test_a_model_without_biases_is_fitted_too() -> None:
    model = vit(ffn_bias=False, proj_bias=False)
    cut = copy.deepcopy(model)
    prune(cut, "mlp", 0.8)
    others = batches(16, seed=5)
    before = closeness(rebuilt(copy.deepcopy(cut)), model, others)[-1].mean
    refit(cut, model, batches(64))
    assert closeness(rebuilt(cut), model, others)[-1].mean > before
