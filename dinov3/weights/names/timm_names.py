"""timm's DINOv3: tensor names and model names, and ours, both ways.

timm's ``Eva`` has one weight for queries, keys and values, biases for queries and values only (for all three with
``attn_type="rope"``), no mask token, and rotary positions computed in float32 from base 100. Its files do not say how
many heads there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dinov3.config.archs import CONVNEXT_ARCHS
from dinov3.weights.names.huggingface_names import NORM_OF_EPS, has_key_bias, head_width, rope_periods
from dinov3.weights.names.name_table import NameTable, Rows

_VIT: Rows = {
    "cls_token": "cls_token",
    "storage_tokens": "reg_token",
    "patch_embed.proj.{}": "patch_embed.proj.{}",
    "blocks.*.norm1.{}": "blocks.*.norm1.{}",
    "blocks.*.attn.qkv.weight": "blocks.*.attn.qkv.weight",
    "blocks.*.attn.qkv.bias": ("blocks.*.attn.q_bias", "blocks.*.attn.k_bias", "blocks.*.attn.v_bias"),
    "blocks.*.attn.proj.{}": "blocks.*.attn.proj.{}",
    "blocks.*.ls1.gamma": "blocks.*.gamma_1",
    "blocks.*.norm2.{}": "blocks.*.norm2.{}",
    "blocks.*.ls2.gamma": "blocks.*.gamma_2",
    "norm.{}": "norm.{}",
}
_MLP: Rows = {"blocks.*.mlp.fc1.{}": "blocks.*.mlp.fc1.{}", "blocks.*.mlp.fc2.{}": "blocks.*.mlp.fc2.{}"}
_GATED: Rows = {
    "blocks.*.mlp.w1.{}": "blocks.*.mlp.fc1_g.{}",
    "blocks.*.mlp.w2.{}": "blocks.*.mlp.fc1_x.{}",
    "blocks.*.mlp.w3.{}": "blocks.*.mlp.fc2.{}",
}
KEYED = "blocks.*.attn.qkv.bias"  # one bias for queries, keys and values: in attention of type "rope"
TABLES = {  # (gated?, keys with a bias?)
    (gated, keyed): NameTable({**_VIT, **(_GATED if gated else _MLP), **({KEYED: KEYED} if keyed else {})})
    for gated in (False, True)
    for keyed in (False, True)
}
CONVNEXT = NameTable(
    {
        "downsample_layers.*.*.{}": "stages.*.downsample.*.{}",  # the first one is called stem, see below
        "stages.*.*.gamma": "stages.*.blocks.*.gamma",
        "stages.*.*.dwconv.{}": "stages.*.blocks.*.conv_dw.{}",
        "stages.*.*.norm.{}": "stages.*.blocks.*.norm.{}",
        "stages.*.*.pwconv1.{}": "stages.*.blocks.*.mlp.fc1.{}",
        "stages.*.*.pwconv2.{}": "stages.*.blocks.*.mlp.fc2.{}",
        "norm.{}": "head.norm.{}",
    }
)
STEM, FIRST = "stem.", "stages.0.downsample."
ROPE_BASE = 100.0
SETTINGS = {
    "norm_layer": "layernormbf16",
    "pos_embed_rope_base": ROPE_BASE,
    "pos_embed_rope_normalize_coords": "separate",
    "pos_embed_rope_dtype": "fp32",
}
BASIS = "vit_small_patch16_dinov3_qkvb"  # the model name that other dimensions are given to
# Without and with biases in queries and values: (width, depth, heads, hidden width, gated) to timm's name.
PLAIN = {
    (384, 12, 6, 1536, False): "vit_small_patch16_dinov3",
    (384, 12, 6, 1536, True): "vit_small_plus_patch16_dinov3",
    (768, 12, 12, 3072, False): "vit_base_patch16_dinov3",
    (1024, 24, 16, 4096, False): "vit_large_patch16_dinov3",
    (1280, 32, 20, 5120, True): "vit_huge_plus_patch16_dinov3",
    (4096, 40, 32, 8192, True): "vit_7b_patch16_dinov3",
}
BIASED = {key: f"{name}_qkvb" for key, name in PLAIN.items() if "7b" not in name} | {
    (192, 12, 3, 768, False): "vit_tiny_patch16_dinov3_qkvb"
}


def is_vit(names: set[str]) -> bool:
    return "blocks.0.gamma_1" in names and "patch_embed.proj.weight" in names


def is_convnext(names: set[str]) -> bool:
    return "stem.0.weight" in names and "stages.0.blocks.0.conv_dw.weight" in names


def vit_to_ours(tensors: Mapping[str, Tensor], num_heads: int | None) -> tuple[dict[str, Tensor], list[str]]:
    """Our names, with the computed buffers; and their names that have no place here.

    ``num_heads`` None: heads of 64 channels, or of 128 in the 7B model, as in every DINOv3 of timm. Raises ValueError
    when the width is no such number of heads.
    """
    gated, keyed = (any(part in name for name in tensors) for part in (".fc1_g.", ".attn.qkv.bias"))
    ours, unknown = TABLES[gated, keyed].to_ours(tensors)
    if "cls_token" in ours:
        dim = ours["cls_token"].shape[-1] if ours["cls_token"].ndim else 0
        usual = 128 if dim == 4096 else 64
        if num_heads is None and dim % usual:
            raise ValueError(f"a width of {dim} is no multiple of {usual}, and timm's files say no number of heads")
        heads = num_heads or dim // usual
        ours["rope_embed.periods"] = rope_periods(head_width(ours["cls_token"], heads), ROPE_BASE)
    return ours, unknown


def vit_from_ours(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their names; and ours that have no place there. A keys' bias of zero is left out."""
    ours = {k: v for k, v in tensors.items() if k != "mask_token"}
    theirs, unknown = TABLES["blocks.0.mlp.w1.weight" in ours, has_key_bias(tensors)].to_theirs(ours)
    return {k: v for k, v in theirs.items() if not k.endswith("attn.k_bias")}, unknown


def convnext_to_ours(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our names; and their names that have no place here."""
    return CONVNEXT.to_ours({FIRST + k.removeprefix(STEM) if k.startswith(STEM) else k: v for k, v in tensors.items()})


def convnext_from_ours(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their names; and ours that have no place there."""
    theirs, unknown = CONVNEXT.to_theirs(tensors)
    return {STEM + k.removeprefix(FIRST) if k.startswith(FIRST) else k: v for k, v in theirs.items()}, unknown


def vit_model(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """timm's name for a DinoVisionTransformer with these arguments and (our, ``effective``) tensors, and the arguments it needs.

    ``norm_eps`` among them stands for ``norm_layer=partial(LayerNorm, eps=norm_eps)``.
    """
    gated = settings["ffn_layer"] != "mlp"
    hidden = tensors["blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    key = (settings["embed_dim"], settings["depth"], settings["num_heads"], hidden, gated)
    name = (BIASED if settings["qkv_bias"] else PLAIN).get(key)
    arguments: dict[str, Any] = {}
    if name is None or settings["patch_size"] != 16 or settings["n_storage_tokens"] != 4:
        name, arguments = BASIS, _dimensions(settings, hidden, gated)
    if settings["in_chans"] != 3:
        arguments["in_chans"] = settings["in_chans"]
    if not settings.get("mask_k_bias", True) and has_key_bias(tensors):
        arguments["attn_type"] = "rope"
    if settings["norm_layer"] != SETTINGS["norm_layer"]:
        arguments["norm_eps"] = {n: eps for eps, n in NORM_OF_EPS.items()}[settings["norm_layer"]]
    return name, arguments


def _dimensions(settings: Mapping[str, Any], hidden: int, gated: bool) -> dict[str, Any]:
    dim = settings["embed_dim"]
    ratio = hidden / dim
    return {
        "img_size": settings["img_size"] // settings["patch_size"] * settings["patch_size"],
        "patch_size": settings["patch_size"],
        "embed_dim": dim,
        "depth": settings["depth"],
        "num_heads": settings["num_heads"],
        "mlp_ratio": ratio if int(dim * ratio) == hidden else ratio + 0.5 / dim,
        "qkv_bias": settings["qkv_bias"],
        "num_reg_tokens": settings["n_storage_tokens"],
        # aligned to 1 and not to 0: only then two weights and not one
        **({"swiglu_mlp": True, "swiglu_align_to": 1} if gated else {}),
    }


def convnext_model(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """timm's name for a ConvNeXt with these arguments, and the arguments it needs."""
    depths, dims = list(settings["depths"]), list(settings["dims"])
    name = next((n for n, a in CONVNEXT_ARCHS.items() if a["depths"] == depths and a["dims"] == dims), None)
    arguments: dict[str, Any] = {} if name else {"depths": depths, "dims": dims}
    if settings["in_chans"] != 3:
        arguments["in_chans"] = settings["in_chans"]
    return name or "convnext_tiny", {**arguments, "num_classes": 0}
