from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.contracts import Features
from dinov3.models.convnext import ConvNeXt, ConvNeXtBlock

SMALL: dict[str, Any] = {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24], "layer_scale_init_value": 0.5}


def convnext(**changes: Any) -> ConvNeXt:
    model = ConvNeXt(**SMALL | changes)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model.eval()


def images(n: int, rows: int, cols: int) -> Tensor:
    return torch.randn(n, 3, rows, cols, generator=torch.Generator().manual_seed(2))


def block_by_definition(block: ConvNeXtBlock, x: Tensor) -> Tensor:
    """The published block, channels first [N, C, H, W]."""
    y = F.conv2d(x, block.dwconv.weight, block.dwconv.bias, padding=3, groups=x.shape[1])
    mean, variance = y.mean(1, keepdim=True), y.var(1, keepdim=True, correction=0)
    y = (y - mean) / (variance + 1e-6).sqrt() * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    y = torch.einsum("nchw,oc->nohw", y, block.pwconv1.weight) + block.pwconv1.bias[:, None, None]
    y = torch.einsum("nchw,oc->nohw", F.gelu(y), block.pwconv2.weight) + block.pwconv2.bias[:, None, None]
    return x + block.gamma[:, None, None] * y


def test_a_block_equals_its_channels_first_definition() -> None:
    block = convnext().stages[0][0]  # type: ignore[index]
    assert isinstance(block, ConvNeXtBlock)
    x = torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), block_by_definition(block, x), atol=1e-5)


def test_the_class_token_is_the_normed_mean_of_the_patches() -> None:
    model = convnext()
    out: Features = model(images(2, 64, 96), is_training=True)
    assert out.grid == (2, 3)
    assert out.storage.shape == (2, 0, 24)
    assert torch.allclose(out.cls, model.norm(out.prenorm.mean(1)), atol=1e-5)
    assert torch.equal(model(images(2, 64, 96)), out.cls)


def test_masks_are_ignored() -> None:
    model, x = convnext(), images(1, 64, 64)
    assert torch.equal(model(x, masks=torch.ones(1, 4, dtype=torch.bool)), model(x))


def test_stages_keep_their_strides_or_are_resized_to_the_patch_grid() -> None:
    x = images(1, 64, 96)
    own = convnext().get_intermediate_layers(x, n=4, reshape=True)
    assert [tuple(t.shape) for t in own] == [(1, 8, 16, 24), (1, 12, 8, 12), (1, 16, 4, 6), (1, 24, 2, 3)]  # type: ignore[union-attr]
    resized = convnext(patch_size=16).get_intermediate_layers(x, n=[0, 3])
    assert [tuple(t.shape) for t in resized] == [(1, 24, 8), (1, 24, 24)]  # type: ignore[union-attr]


def test_an_intermediate_result_names_its_parts_in_order() -> None:
    model, x = convnext(), images(1, 64, 64)
    ((patches, cls, storage),) = model.get_intermediate_layers(x, return_class_token=True, return_extra_tokens=True)
    out: Features = model(x, is_training=True)
    assert torch.equal(patches, out.patches)
    assert torch.equal(cls, out.cls)
    assert storage.shape == (1, 0, 24)


def test_drop_path_rises_over_the_blocks_and_is_unbiased() -> None:
    model = convnext(drop_path_rate=0.4)
    blocks = [m for m in model.modules() if isinstance(m, ConvNeXtBlock)]
    assert [b.drop_path for b in blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    last, x = blocks[-1], torch.ones(4000, 1, 1, 24)
    plain = last(x)
    torch.manual_seed(0)
    dropped = last.train()(x)
    share = (dropped == x).all(-1).float().mean()
    assert abs(share.item() - 0.4) < 0.04
    assert torch.allclose(dropped.mean(0), plain[0], atol=0.06 * (plain[0] - 1).abs().max().item())


def test_norms_3_is_another_name_of_norm() -> None:
    state = convnext().state_dict(keep_vars=True)
    assert state["norms.3.weight"] is state["norm.weight"]


def test_first_weights_are_nan_and_then_from_the_generator() -> None:
    state = torch.get_rng_state()
    model = ConvNeXt(**SMALL)
    assert all(t.isnan().all() for t in model.state_dict().values())
    model.init_weights(torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    assert all(t.isfinite().all() for t in model.state_dict().values())
    assert model.state_dict()["stages.2.1.gamma"].eq(0.5).all()


@pytest.mark.parametrize(
    ("settings", "message"), [({"dims": [8, 8]}, "4 stages"), ({"drop_path_rate": 1.0}, "drop_path_rate")]
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**SMALL | settings)
