from __future__ import annotations

import pytest
import torch

from dinov3.models.convnext import ConvNeXt
from dinov3.models.vit import DinoVisionTransformer
from dinov3.pictures.attention import attention_maps, similarity_map


@pytest.fixture(scope="module")
def backbone() -> DinoVisionTransformer:
    model = DinoVisionTransformer(
        patch_size=8, embed_dim=32, depth=2, num_heads=2, n_storage_tokens=3, pos_embed_rope_dtype="fp32"
    )
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize("layer", [0, 1])
def test_the_maps_explain_what_the_class_token_takes_from_the_values(
    backbone: DinoVisionTransformer, layer: int
) -> None:
    images = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    taken: list[torch.Tensor] = []
    projected: list[torch.Tensor] = []
    attention = backbone.blocks[layer].attn
    hooks = [
        attention.proj.register_forward_pre_hook(lambda _, args: taken.append(args[0])),
        attention.qkv.register_forward_hook(lambda _, args, out: projected.append(out)),
    ]
    maps = attention_maps(backbone, images, layer)
    for hook in hooks:
        hook.remove()
    assert maps.shape == (2, 2, 2, 3)
    values = projected[0].view(2, 10, 3, 2, 16)[:, :, 2]  # [N, T, heads, D_head]
    # what is missing from 1 went to the class token and the three storage tokens
    assert (maps.sum((2, 3)) < 1).all()
    patches_part = torch.einsum("nhp,nphd->nhd", maps.flatten(2), values[:, 4:])
    whole = taken[0].view(2, 10, 2, 16)[:, 0]
    rest = whole - patches_part  # a mixture of the four other values
    mixture = torch.linalg.lstsq(values[:, :4].permute(0, 2, 3, 1), rest.unsqueeze(-1)).solution[..., 0]
    torch.testing.assert_close(mixture.sum(-1), 1 - maps.sum((2, 3)), rtol=1e-3, atol=1e-3)


def test_a_convnext_is_refused() -> None:
    with pytest.raises(ValueError, match="ConvNeXt"):
        attention_maps(ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8]), torch.zeros(1, 3, 32, 32))


def test_a_patch_is_most_like_itself_and_its_copies() -> None:
    patches = torch.eye(6)
    patches[5] = 3 * patches[1]
    similar = similarity_map(patches, (2, 3), (0.2, 0.5))
    assert similar.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert similarity_map(patches, (2, 3), (1.0, 1.0))[1, 2] == 1
