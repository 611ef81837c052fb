"""What the names and shapes of a state dict say about the model they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dinov3.config.archs import CONVNEXT_ARCHS, VIT_ARCHS

_KEYS = {"ffn_hidden": "ffn_ratio", "norm": "norm_layer"}  # what is seen, and the key that decides it
FILTERS = "patch_embed.filters.weight"  # of a whitened stem
RANKS = {  # dimensions of the tensors that tell something
    **{"cls_token": 3, "mask_token": 2, "storage_tokens": 3, "patch_embed.proj.weight": 4, "rope_embed.periods": 1},
    FILTERS: 4,
    **{f"blocks.0.mlp.{layer}.weight": 2 for layer in ("fc1", "w1")},
    **{"downsample_layers.0.0.weight": 4, **{f"stages.{stage}.0.gamma": 1 for stage in range(4)}},
}
Shapes = Mapping[str, tuple[int, ...]]
ROPE_PERIODS_PER_HEAD_CHANNEL = 4  # one period serves sine and cosine of two axes


def is_convnext(shapes: Shapes) -> bool:
    """ConvNeXt, not a vision transformer?"""
    return "downsample_layers.0.0.weight" in shapes


def seen_settings(shapes: Shapes) -> dict[str, Any]:
    """What a backbone's shapes show, under the keys of the config block ``student``.

    ``layerscale`` is only whether there is one; ``ffn_layer`` is "mlp" or "swiglu", its width ``ffn_hidden``;
    ``num_heads`` is missing without ``rope_embed.periods``. A tensor that is missing leaves its key out.
    Raises ValueError for one of those that tell when it has other dimensions than it can have.
    """
    for name, shape in shapes.items():
        rank = RANKS.get(name)
        if rank is not None and (len(shape) != rank or 0 in shape):
            raise ValueError(f"{name} has the shape {list(shape)}: {rank} dimensions, none of them 0, are wanted")
    return _seen_convnext(shapes) if is_convnext(shapes) else _seen_vit(shapes)


def _seen_convnext(shapes: Shapes) -> dict[str, Any]:
    stages = range(4)
    depths = [len({k.split(".")[2] for k in shapes if k.startswith(f"stages.{i}.")}) for i in stages]
    dims = [shapes.get(f"stages.{i}.0.gamma", (0,))[0] for i in stages]
    return {"depths": depths, "dims": dims, "in_chans": shapes["downsample_layers.0.0.weight"][1]}


def _seen_vit(shapes: Shapes) -> dict[str, Any]:
    def has(name: str) -> bool:
        return f"blocks.0.{name}" in shapes

    seen: dict[str, Any] = {"depth": len({k.split(".")[1] for k in shapes if k.startswith("blocks.")})}
    if kernel := shapes.get("patch_embed.proj.weight"):
        seen |= {"embed_dim": kernel[0], "in_chans": kernel[1], "patch_size": kernel[-1], "stem": "patch"}
        if filters := shapes.get(FILTERS):  # the size of its patches is not to be seen
            seen |= {"in_chans": filters[1], "stem": "whitened", "stem_filters": filters[0]}
            del seen["patch_size"]
    if periods := shapes.get("rope_embed.periods"):
        seen["num_heads"] = seen.get("embed_dim", 0) // (periods[0] * ROPE_PERIODS_PER_HEAD_CHANNEL)
    seen |= {
        "n_storage_tokens": shapes["storage_tokens"][1] if "storage_tokens" in shapes else 0,
        "qkv_bias": has("attn.qkv.bias"),
        "mask_k_bias": has("attn.qkv.bias_mask"),
        "proj_bias": has("attn.proj.bias"),
        "layerscale": has("ls1.gamma"),
        "norm": "a LayerNorm" if has("norm1.bias") else "rmsnorm",
        "untie_cls_and_patch_norms": "cls_norm.weight" in shapes,
        "untie_global_and_local_cls_norm": "local_cls_norm.weight" in shapes,
    }
    for kind, up in (("mlp", "fc1"), ("swiglu", "w1")):
        if has(f"mlp.{up}.weight"):
            width = shapes[f"blocks.0.mlp.{up}.weight"][0]
            seen |= {"ffn_layer": kind, "ffn_hidden": width, "ffn_bias": has(f"mlp.{up}.bias")}
    return seen


def vit_arguments(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of DinoVisionTransformer from ``seen_settings``; KeyError when something was not to be seen."""
    same: tuple[str, ...] = (
        "depth",
        "embed_dim",
        "in_chans",
        "patch_size",
        "num_heads",
        "n_storage_tokens",
        "qkv_bias",
        "mask_k_bias",
    )
    same = (*same, "proj_bias", "ffn_bias", "ffn_layer", "untie_cls_and_patch_norms", "untie_global_and_local_cls_norm")
    return {
        **{key: seen[key] for key in same},
        "ffn_ratio": ffn_ratio(seen["embed_dim"], seen["ffn_hidden"], seen["ffn_layer"]),
        "layerscale_init": 1e-5 if seen["layerscale"] else None,
        **({} if seen["stem"] == "patch" else {key: seen[key] for key in ("stem", "stem_filters")}),
    }


def ffn_ratio(dim: int, hidden: int, ffn_layer: str) -> float:
    """The ``ffn_ratio`` with which a feed-forward network of this kind ("mlp" or "swiglu") has this hidden width.

    Raises ValueError for a SwiGLU whose width is no multiple of 8.
    """
    if ffn_layer == "swiglu" and hidden % 8:
        raise ValueError(f"a swiglu feed-forward of {hidden} channels does not exist: a multiple of 8")
    inner = hidden * 3 // 2 if ffn_layer == "swiglu" else hidden
    ratio = inner / dim
    return ratio if int(dim * ratio) == inner else (inner + 0.5) / dim


def differences(file: Mapping[str, Any], student: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key of the block ``student``, one line that says what to set) for every setting both have and that differs."""
    if ("dims" in file) != ("dims" in student):
        kinds = ("a ConvNeXt", "a vision transformer")
        yield (
            "student.arch",
            f"the file holds {kinds['dims' not in file]}, the student is {kinds['dims' not in student]}",
        )
        return
    noise = (
        {"num_heads", "ffn_hidden"} if file.get("embed_dim") != student.get("embed_dim") else set()
    )  # go with the width
    for key in [k for k in file if k in student and file[k] != student[k] and k not in noise]:
        name = "arch" if key in ("depths", "dims") else _KEYS.get(key, key)
        yield f"student.{name}", _advice(key, student[key], file[key], file)


def _advice(key: str, own: Any, theirs: Any, file: Mapping[str, Any]) -> str:
    if key in ("embed_dim", "depth", "num_heads", "depths", "dims"):
        same = [
            name
            for name, dims in (VIT_ARCHS | CONVNEXT_ARCHS).items()
            if all(file.get(k, v) == v for k, v in dims.items() if k != "ffn_ratio")
            and ("dims" in dims) == ("dims" in file)
        ]
        way_out = f"set student.arch to {same[0]}" if same else f"set it to {_text(theirs)}"
        what = f"{key} {_text(own)}" if key in ("depths", "dims") else _text(own)
        return f"{what}, the file has {_text(theirs)}: {way_out}"
    if key == "ffn_hidden":
        ratio = ffn_ratio(file["embed_dim"], theirs, file["ffn_layer"])
        return f"gives {own} hidden channels, the file has {theirs}: set it to {ratio:.10g}"
    if key == "layerscale":
        return f"the file has {'' if theirs else 'no '}LayerScale: set it to {'1e-5' if theirs else 'null'}"
    if key == "n_storage_tokens":
        return f"{own}, the file has {theirs} storage tokens: set it to {theirs}"
    return f"{_text(own)}, the file has {_text(theirs)}: set it to {_text(theirs)}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
