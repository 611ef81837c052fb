from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.models.vit import DinoVisionTransformer

TINY: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "layerscale_init": 0.5,
    "n_storage_tokens": 2,
    "mask_k_bias": True,
    "pos_embed_rope_dtype": "fp32",
}


def vit(**changes: Any) -> Any:  # submodules are untyped
    model = DinoVisionTransformer(**TINY | changes)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():  # the official init leaves attention uniform and tokens nearly equal
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model.eval()


def images(n: int, rows: int, cols: int, seed: int = 2) -> Tensor:
    return torch.randn(n, 3, rows, cols, generator=torch.Generator().manual_seed(seed))


def a_mask(n: int, patches: int) -> Tensor:
    return torch.rand(n, patches, generator=torch.Generator().manual_seed(3)) < 0.4


def scalar(features: Features) -> Tensor:
    return (
        features.cls.square().sum() + (features.patches * features.patches.roll(1, -1)).sum() + features.storage.sum()
    )


def grads_of(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(8, 30), st.integers(8, 30)), min_size=1, max_size=3))
def test_a_packed_list_equals_separate_calls(sizes: list[tuple[int, int, int]]) -> None:
    model = vit().train()
    entries = [images(*size) for size in sizes]
    masks = [a_mask(n, (h // 8) * (w // 8)) if n % 2 else None for n, h, w in sizes]
    together = model(entries, masks=masks, is_training=True)
    alone = [model(x, masks=m, is_training=True) for x, m in zip(entries, masks, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert a.grid == b.grid
        for x, y in zip(a[:4], b[:4], strict=True):
            assert torch.allclose(x, y, atol=1e-5)
    packed = grads_of(model, torch.stack([scalar(f) for f in together]).sum())
    separate = grads_of(model, torch.stack([scalar(f) for f in alone]).sum())
    assert set(packed) == set(separate)
    for name, grad in packed.items():
        assert torch.allclose(grad, separate[name], atol=1e-3, rtol=1e-3), name


def test_features_have_the_promised_shapes() -> None:
    out: Features = vit()(images(3, 16, 28), is_training=True)
    assert out.grid == (2, 3)
    assert out.cls.shape == (3, 32)
    assert out.storage.shape == (3, 2, 32)
    assert out.patches.shape == (3, 6, 32)
    assert out.prenorm.shape == (3, 9, 32)


def test_inference_returns_the_normed_cls_token() -> None:
    model, x = vit(), images(2, 16, 16)
    assert torch.equal(model(x), model(x, is_training=True).cls)
    assert torch.equal(model([x])[0], model(x))


def test_pixels_behind_the_last_whole_patch_do_not_matter() -> None:
    model, x = vit(), images(1, 23, 17)
    assert torch.equal(model(x), model(x[:, :, :16, :16]))


def test_an_image_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="7x16 px is smaller than a patch of 8 px"):
        vit()(images(1, 7, 16))


def test_masked_patches_are_not_seen() -> None:
    model, x = vit(), images(2, 16, 16)
    mask = torch.tensor([[True, False, False, False]] * 2)
    changed = x.clone()
    changed[:, :, :8, :8] += 1
    assert torch.equal(model(x, masks=mask), model(changed, masks=mask))
    assert not torch.allclose(model(x), model(changed))


def test_mask_token_gets_a_zero_gradient_without_masks() -> None:
    model = vit()
    grad = grads_of(model, model(images(1, 16, 16)).sum())["mask_token"]
    assert not grad.any()


def test_masks_must_come_as_the_images_do() -> None:
    with pytest.raises(ValueError, match="list for a list"):
        vit()([images(1, 16, 16)], masks=a_mask(1, 4))


def test_forward_features_uses_the_known_names() -> None:
    model, x, mask = vit(), images(1, 16, 16), a_mask(1, 4)
    out: Features = model(x, masks=mask, is_training=True)
    named = model.forward_features(x, masks=mask)
    assert isinstance(named, dict)
    assert torch.equal(named["x_norm_clstoken"], out.cls)
    assert torch.equal(named["x_storage_tokens"], out.storage)
    assert torch.equal(named["x_norm_patchtokens"], out.patches)
    assert torch.equal(named["x_prenorm"], out.prenorm)
    assert named["masks"] is mask
    assert len(model.forward_features([x, x])) == 2


def test_the_last_intermediate_layer_is_the_output() -> None:
    model, x = vit(), images(2, 16, 24)
    out: Features = model(x, is_training=True)
    ((patches, cls, storage),) = model.get_intermediate_layers(
        x, n=1, reshape=True, return_class_token=True, return_extra_tokens=True
    )
    assert torch.equal(patches, out.patches.mT.unflatten(2, (2, 3)))
    assert torch.equal(cls, out.cls)
    assert torch.equal(storage, out.storage)
    first, last = model.get_intermediate_layers(x, n=[0, 1], norm=False)
    assert torch.equal(last, out.prenorm[:, 3:])
    assert not torch.allclose(first, last)


def test_a_layer_that_does_not_exist_is_refused() -> None:
    for n in (3, [2], [-1], 0):
        with pytest.raises(ValueError, match="layers 0 to 1"):
            vit().get_intermediate_layers(images(1, 16, 16), n=n)


def test_weights_come_from_the_generator_and_nowhere_else() -> None:
    state = torch.get_rng_state()
    models = [DinoVisionTransformer(**TINY) for _ in range(2)]
    for model in models:
        model.init_weights(torch.Generator().manual_seed(5))
    assert torch.equal(state, torch.get_rng_state())
    a, b = (m.state_dict() for m in models)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_every_tensor_is_nan_before_and_finite_after_init() -> None:
    on_meta = DinoVisionTransformer(**TINY | {"norm_layer": "rmsnorm", "ffn_layer": "swiglu"}, device="meta")
    assert all(t.is_meta for t in on_meta.state_dict().values())
    model = on_meta.to_empty(device="cpu")
    direct = DinoVisionTransformer(**TINY)
    assert all(t.isnan().all() for t in direct.state_dict().values())
    for t in model.state_dict().values():
        t.fill_(torch.nan)
    model.init_weights(torch.Generator().manual_seed(0))
    assert all(t.isfinite().all() for t in model.state_dict().values())


def test_drop_path_is_for_training_and_follows_the_default_generator() -> None:
    model, x = vit(drop_path_rate=0.5), [images(6, 16, 16), images(5, 8, 8)]
    assert torch.equal(model(x)[0], vit()(x)[0])
    model.train()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(model(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


def test_drop_path_saves_the_work_of_dropped_samples() -> None:
    model, rows = vit(drop_path_rate=0.5).train(), []
    model.blocks[1].mlp.fc1.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    model([images(6, 16, 16), images(5, 8, 8)])
    assert rows == [3 * 7 + 2 * 4]


def test_the_local_cls_norm_acts_on_the_second_entry_in_training_only() -> None:
    model = vit(untie_global_and_local_cls_norm=True)
    x = [images(1, 16, 16), images(1, 8, 8)]
    plain = model(x)
    with torch.no_grad():
        model.local_cls_norm.weight.mul_(2)
        model.local_cls_norm.bias.add_(1)
    assert torch.equal(model(x)[1], plain[1])
    trained = model.train()(x)
    assert torch.equal(trained[0], plain[0])
    assert not torch.allclose(trained[1], plain[1])


def test_an_untied_cls_norm_leaves_patches_alone() -> None:
    model, x = vit(untie_cls_and_patch_norms=True), images(1, 16, 16)
    before: Features = model(x, is_training=True)
    with torch.no_grad():
        model.cls_norm.weight.mul_(2)
    after: Features = model(x, is_training=True)
    assert torch.equal(before.patches, after.patches)
    assert not torch.allclose(before.cls, after.cls)
    assert not torch.allclose(before.storage, after.storage)


def test_an_empty_entry_yields_empty_features() -> None:
    model = vit(drop_path_rate=0.5).train()
    full, empty = model([images(2, 16, 16), images(0, 8, 8)], is_training=True)
    assert empty.cls.shape == (0, 32)
    assert grads_of(model, full.cls.sum() + empty.patches.sum())["blocks.0.mlp.fc1.weight"].any()


@pytest.mark.parametrize("changes", [{}, {"drop_path_rate": 0.5}], ids=["plain", "drop_path"])
def test_the_whole_model_is_one_compiled_graph(changes: dict[str, Any]) -> None:
    model = vit(**changes).train()
    x, masks = [images(4, 16, 16), images(3, 8, 8)], [a_mask(4, 4), None]
    compiled: Any = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True, dynamic=False)
    results = []
    for each in (model, compiled):
        torch.manual_seed(0)
        out = each(x, masks=masks, is_training=True)
        results.append((out, grads_of(model if each is model else compiled._orig_mod, scalar(out[0]) + scalar(out[1]))))
    for a, b in zip(*[r[0] for r in results], strict=True):
        assert torch.allclose(a.patches, b.patches, atol=1e-5)
    for name, grad in results[0][1].items():
        assert torch.allclose(grad, results[1][1][name], atol=1e-4), name


def test_autocast_trains_in_bf16_with_drop_path() -> None:
    model, x = vit(drop_path_rate=0.4).train(), [images(4, 16, 16), images(3, 8, 8)]
    torch.manual_seed(0)
    full: list[Features] = model(x, is_training=True)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half: list[Features] = model(x, is_training=True)
    assert torch.allclose(full[0].patches, half[0].patches.float(), atol=0.15)
    assert all(g.isfinite().all() for g in grads_of(model, scalar(half[0]) + scalar(half[1])).values())
