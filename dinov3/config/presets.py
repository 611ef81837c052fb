"""The architecture of every released model, in the keys of the block ``student``: what ``student.preset`` fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dinov3.config.convert import as_text, convert
from dinov3.config.errors import KeyProblem
from dinov3.config.names import hint_of
from dinov3.config.schema import StudentConfig
from dinov3.config.yaml_file import Tree

_VIT: dict[str, Any] = {
    "patch_size": 16,
    "pos_embed_rope_base": 100.0,
    "pos_embed_rope_rescale_coords": 2.0,
    "pos_embed_rope_dtype": "fp32",
    "layerscale": 1e-5,
    "norm_layer": "layernormbf16",
    "n_storage_tokens": 4,
    "mask_k_bias": True,
}
_PLUS = {"ffn_layer": "swiglu", "ffn_ratio": 6.0}
_LOCAL_NORM = {"untie_global_and_local_cls_norm": True}
_SEVEN_B = {**_VIT, "arch": "vit_7b", "ffn_layer": "swiglu64", "qkv_bias": False, **_LOCAL_NORM}

# Names are those of the hub. The two SAT493M models were trained on satellite images.
RELEASED: dict[str, dict[str, Any]] = {
    "dinov3_vits16": {**_VIT, "arch": "vit_small"},
    "dinov3_vits16plus": {**_VIT, "arch": "vit_small", **_PLUS},
    "dinov3_vitb16": {**_VIT, "arch": "vit_base"},
    "dinov3_vitl16": {**_VIT, "arch": "vit_large"},
    "dinov3_vitl16__SAT493M": {**_VIT, "arch": "vit_large", **_LOCAL_NORM},
    "dinov3_vitl16plus": {**_VIT, "arch": "vit_large", **_PLUS},
    "dinov3_vith16plus": {**_VIT, "arch": "vit_huge2", **_PLUS},
    "dinov3_vit7b16": _SEVEN_B,
    "dinov3_vit7b16__SAT493M": _SEVEN_B,
    "dinov3_convnext_tiny": {"arch": "convnext_tiny", "patch_size": 32},
    "dinov3_convnext_small": {"arch": "convnext_small", "patch_size": 32},
    "dinov3_convnext_base": {"arch": "convnext_base", "patch_size": 32},
    "dinov3_convnext_large": {"arch": "convnext_large", "patch_size": 32},
}
# What else decides the architecture: with a preset these stay at their defaults.
FIXED_BY_PRESET = (
    *(
        "arch",
        "patch_size",
        "stem",
        "stem_filters",
        "layerscale",
        "ffn_layer",
        "ffn_ratio",
        "qkv_bias",
        "proj_bias",
        "ffn_bias",
        "norm_layer",
    ),
    *("n_storage_tokens", "mask_k_bias", "untie_cls_and_patch_norms", "untie_global_and_local_cls_norm"),
    *("pos_embed_rope_base", "pos_embed_rope_min_period", "pos_embed_rope_max_period"),
    *("pos_embed_rope_normalize_coords", "embed_dim", "depth", "num_heads"),
)


def fill_in_preset(tree: Tree, origin: Mapping[str, str], sources: Sequence[str]) -> list[str]:
    """Set in ``tree`` what ``student.preset`` decides; returns what is to be said about it.

    ``origin``: who gave a key; ``sources``: all who gave any, lowest first. A preset given later than a key, on the
    command line over a file, takes its place; KeyProblem when one was given beside or after it that says otherwise.
    """
    student, name = tree["student"], tree["student"]["preset"]
    if not isinstance(name, str) or name not in RELEASED:
        return []  # null, or what the schema refuses
    order = {source: at for at, source in enumerate(sources)}
    defaults, given_by = asdict(StudentConfig()), origin["student.preset"]
    gave_way: dict[str, list[str]] = {}
    for key in dict.fromkeys((*FIXED_BY_PRESET, *RELEASED[name])):
        wanted, full = RELEASED[name].get(key, defaults[key]), f"student.{key}"
        if full not in origin:
            student[key] = wanted
        elif key in FIXED_BY_PRESET and convert(student[key], hint_of(full), full) != wanted:
            if order[origin[full]] >= order[given_by]:
                has = f"{as_text(student[key])}, but student.preset {name} has {as_text(wanted)}"
                raise KeyProblem(full, f"{has}: remove one of the two")
            gave_way.setdefault(origin[full], []).append(full)
            student[key] = wanted
    return [
        f"{source}: student.preset {name} of {given_by} takes the place of {', '.join(keys)}"
        for source, keys in gave_way.items()
    ]
