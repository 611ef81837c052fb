"""Hugging Face's DINOv3: tensor names, ``config.json`` and ours, both ways.

``DINOv3ViTModel`` has queries, keys and values apart, a key bias only on request, LayerScale always, and rotary
positions computed in float32 from ``rope_theta``; ``DINOv3ConvNextModel`` differs in names only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinov3.models.rotary.embedding import RopePositionEmbedding
from dinov3.weights.names.name_table import NameTable, Rows
from dinov3.weights.reading.errors import WeightsError
from dinov3.weights.settings import checked_preprocess, real, said, whole

_ATTENTION = "layer.*.attention"
_VIT: Rows = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "storage_tokens": "embeddings.register_tokens",
    "patch_embed.proj.{}": "embeddings.patch_embeddings.{}",
    "blocks.*.norm1.{}": "layer.*.norm1.{}",
    "blocks.*.attn.qkv.{}": (f"{_ATTENTION}.q_proj.{{}}", f"{_ATTENTION}.k_proj.{{}}", f"{_ATTENTION}.v_proj.{{}}"),
    "blocks.*.attn.proj.{}": f"{_ATTENTION}.o_proj.{{}}",
    "blocks.*.ls1.gamma": "layer.*.layer_scale1.lambda1",
    "blocks.*.norm2.{}": "layer.*.norm2.{}",
    "blocks.*.ls2.gamma": "layer.*.layer_scale2.lambda1",
    "norm.{}": "norm.{}",
}
MLP = NameTable(
    {**_VIT, "blocks.*.mlp.fc1.{}": "layer.*.mlp.up_proj.{}", "blocks.*.mlp.fc2.{}": "layer.*.mlp.down_proj.{}"}
)
GATED = NameTable(
    {
        **_VIT,
        "blocks.*.mlp.w1.{}": "layer.*.mlp.gate_proj.{}",
        "blocks.*.mlp.w2.{}": "layer.*.mlp.up_proj.{}",
        "blocks.*.mlp.w3.{}": "layer.*.mlp.down_proj.{}",
    }
)
CONVNEXT = NameTable(
    {
        "downsample_layers.*.*.{}": "stages.*.downsample_layers.*.{}",
        "stages.*.*.gamma": "stages.*.layers.*.gamma",
        "stages.*.*.dwconv.{}": "stages.*.layers.*.depthwise_conv.{}",
        "stages.*.*.norm.{}": "stages.*.layers.*.layer_norm.{}",
        "stages.*.*.pwconv1.{}": "stages.*.layers.*.pointwise_conv1.{}",
        "stages.*.*.pwconv2.{}": "stages.*.layers.*.pointwise_conv2.{}",
        "norm.{}": "layer_norm.{}",
    }
)
NORM_OF_EPS = {1e-5: "layernormbf16", 1e-6: "layernorm"}
CONVNEXT_EPS = 1e-6
HEADS, THETA = 6, 100.0  # where config.json states none
BICUBIC = 3  # Pillow's number for it


def is_vit(names: set[str]) -> bool:
    return "embeddings.patch_embeddings.weight" in names


def is_convnext(names: set[str]) -> bool:
    return bool(names & {"stages.0.downsample_layers.0.weight", "model.stages.0.downsample_layers.0.weight"})


def vit_to_ours(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> tuple[dict[str, Tensor], list[str]]:
    """Our names, with the computed buffers; and their names that have no place here.

    Raises ValueError for a number of heads that the width is not divided by.
    """
    bare = {k.removeprefix("model."): v for k, v in tensors.items()}  # transformers 5 keeps the layers in `.model`
    gated = any(".gate_proj." in name for name in bare)
    ours, unknown = (GATED if gated else MLP).to_ours(bare)
    if "mask_token" in ours:
        ours["mask_token"] = ours["mask_token"].reshape(1, -1)
    if "storage_tokens" in ours and not ours["storage_tokens"].numel():
        del ours["storage_tokens"]
    if config is not None and "cls_token" in ours:
        heads = config.get("num_attention_heads", HEADS)
        ours["rope_embed.periods"] = rope_periods(head_width(ours["cls_token"], heads), config.get("rope_theta", THETA))
    return ours, unknown


def head_width(cls_token: Tensor, heads: int) -> int:
    """Channels of a head; ValueError when the width of the class token is no such number of heads."""
    dim = cls_token.shape[-1] if cls_token.ndim else 0
    if dim < 1 or heads < 1 or dim % heads or dim // heads % 4:
        raise ValueError(f"a width of {dim} has no {heads} heads of a multiple of 4 channels")
    return dim // heads


def rope_periods(head_dim: int, base: float) -> Tensor:
    """The buffer ``rope_embed.periods`` [head_dim / 4] in float32."""
    rope = RopePositionEmbedding(head_dim, base=base, dtype="fp32")
    rope.init_weights()
    return rope.periods


def convnext_to_ours(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our names; and their names that have no place here."""
    return CONVNEXT.to_ours({k.removeprefix("model."): v for k, v in tensors.items()})


def vit_settings(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What ``config.json`` states and shapes do not: arguments of DinoVisionTransformer. Raises WeightsError."""
    eps, gated = real(config.get("layer_norm_eps", 1e-5), "layer_norm_eps", source), config.get("use_gated_mlp") is True
    if eps not in NORM_OF_EPS:
        raise WeightsError(f"{source}: layer_norm_eps {eps:g} is none of {sorted(NORM_OF_EPS)}")
    wanted = "silu" if gated else "gelu"
    if (act := config.get("hidden_act", "gelu")) != wanted:
        raise WeightsError(f"{source}: hidden_act {said(act)}, only {wanted!r} exists with use_gated_mlp {gated}")
    size = config.get("image_size", 224)
    return {
        "norm_layer": NORM_OF_EPS[eps],
        "num_heads": whole(config.get("num_attention_heads", HEADS), "num_attention_heads", source),
        "pos_embed_rope_base": real(config.get("rope_theta", THETA), "rope_theta", source, low=1e-3),
        "pos_embed_rope_normalize_coords": "separate",
        "pos_embed_rope_dtype": "fp32",
        "img_size": whole(size[0] if isinstance(size, list) and size else size, "image_size", source),
    }


def check_convnext_config(config: Mapping[str, Any], source: str) -> None:
    """WeightsError for a ConvNeXt that is not DINOv3's."""
    if (eps := real(config.get("layer_norm_eps", CONVNEXT_EPS), "layer_norm_eps", source)) != CONVNEXT_EPS:
        raise WeightsError(f"{source}: layer_norm_eps {eps:g}, DINOv3's ConvNeXt has {CONVNEXT_EPS:g}")


def vit_from_ours(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their names; and ours that have no place there. A key bias of zero is left out: ``key_bias`` is then false."""
    ours = dict(tensors)
    ours["mask_token"] = ours["mask_token"].reshape(1, 1, -1)
    ours.setdefault("storage_tokens", ours["cls_token"].new_empty(1, 0, ours["cls_token"].shape[-1]))
    theirs, unknown = (GATED if "blocks.0.mlp.w1.weight" in ours else MLP).to_theirs(ours)
    if not has_key_bias(tensors):
        theirs = {k: v for k, v in theirs.items() if not k.endswith("k_proj.bias")}
    return theirs, unknown


def has_key_bias(tensors: Mapping[str, Tensor]) -> bool:
    """Does any block add something to its keys? (ours; the masks already applied)"""
    biases = [v for k, v in tensors.items() if k.endswith("attn.qkv.bias")]
    return any(bool(torch.any(bias.chunk(3)[1] != 0)) for bias in biases)


def vit_config(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """``config.json`` of ``DINOv3ViTModel`` for a DinoVisionTransformer with these arguments and (our) tensors."""
    gated = settings["ffn_layer"] != "mlp"
    eps = {name: eps for eps, name in NORM_OF_EPS.items()}[settings["norm_layer"]]
    hidden = tensors["blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "hidden_size": settings["embed_dim"],
        "num_hidden_layers": settings["depth"],
        "num_attention_heads": settings["num_heads"],
        "intermediate_size": hidden,
        "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "patch_size": settings["patch_size"],
        "image_size": settings["img_size"],
        "num_channels": settings["in_chans"],
        "num_register_tokens": settings["n_storage_tokens"],
        "query_bias": settings["qkv_bias"],
        "key_bias": settings["qkv_bias"] and has_key_bias(tensors),
        "value_bias": settings["qkv_bias"],
        "proj_bias": settings["proj_bias"],
        "mlp_bias": settings["ffn_bias"],
        "layer_norm_eps": eps,
        "layerscale_value": settings["layerscale_init"] or 1.0,
        "drop_path_rate": 0.0,
        "rope_theta": settings["pos_embed_rope_base"],
        "pos_embed_shift": settings["pos_embed_rope_shift_coords"],
        "pos_embed_jitter": settings["pos_embed_rope_jitter_coords"],
        "pos_embed_rescale": settings["pos_embed_rope_rescale_coords"],
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "dtype": "float32",
    }


def convnext_config(settings: Mapping[str, Any], img_size: int) -> dict[str, Any]:
    """``config.json`` of ``DINOv3ConvNextModel`` for a ConvNeXt with these arguments."""
    return {
        "architectures": ["DINOv3ConvNextModel"],
        "model_type": "dinov3_convnext",
        "num_channels": settings["in_chans"],
        "hidden_sizes": list(settings["dims"]),
        "depths": list(settings["depths"]),
        "hidden_act": "gelu",
        "layer_norm_eps": CONVNEXT_EPS,
        "layer_scale_init_value": settings["layer_scale_init_value"],
        "drop_path_rate": 0.0,
        "image_size": img_size,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def processor_config(preprocess: Mapping[str, Any], size: int) -> dict[str, Any]:
    """``preprocessor_config.json``: the whole image, bicubic as in our evaluation, then our statistics."""
    return {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": BICUBIC,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
    }


def preprocess_of(processor: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Our ``preprocess`` from a ``preprocessor_config.json``; empty when it states no statistics. Raises WeightsError."""
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not isinstance(mean, list) or not isinstance(std, list):
        return {}
    size = processor.get("size")
    height = size.get("height") if isinstance(size, dict) else None
    return checked_preprocess({"mean": mean, "std": std, "size": height}, source)
