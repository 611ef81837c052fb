"""LoRA adapters in the two files peft writes and reads, both ways, every key accounted for.

``adapter_model.safetensors`` has ``base_model.model.<layer of transformers' DINOv3ViTModel>.lora_A.weight`` [r, in] and
``.lora_B.weight`` [out, r]; ``adapter_config.json`` has rank, alpha and targets. Queries, keys and values are three
layers there, row blocks of one here. Written for transformers 5 (``model.layer.0``); ``layer.0`` of version 4 is read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.models.backbone import Backbone
from dinov3.models.build import backbone_from_description, describe_backbone
from dinov3.models.lora import FUSED, LowRank, RowBlocks, adapters_of, add_lora, merged_parameters
from dinov3.models.vit import DinoVisionTransformer
from dinov3.models.vit_config import QKV
from dinov3.system.files import replacing, write_json
from dinov3.weights.files import WeightsError, read_json, read_weights
from dinov3.weights.tensor_file import write_tensor_file

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
BASE = "base_model.model."
KEY = re.compile(r"base_model\.model\.(?:model\.)?layer\.(\d+)\.(attention|mlp)\.(\w+)\.lora_([AB])\.weight")
ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "o_proj"}
PLAIN = ATTENTION | {"fc1": "up_proj", "fc2": "down_proj"}
GATED = ATTENTION | {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
# Settings that change what an adapter computes, with the only value that is understood here.
PLAIN_LORA: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": (None, []),
    "layers_to_transform": (None, []),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
}
SHOWN = 5

Place = tuple[int, str]  # (block, one of our names of a matrix)


def write_adapters(backbone: Backbone, folder: Path, *, base: str = "") -> list[Path]:
    """Write the adapters of ``backbone`` into ``folder``; ``base`` names the model they belong to.

    WeightsError when there are none, or when queries, keys and values share one ("qkv"), which peft has no name for.
    """
    names = _names(backbone)
    found = _placed(backbone)
    one = next(iter(found.values()))
    tensors: dict[str, Tensor] = {}
    for (block, name), adapter in found.items():
        group = "attention" if name in ATTENTION else "mlp"
        stem = f"{BASE}model.layer.{block}.{group}.{names[name]}"
        for side, value in (("A", adapter.a), ("B", adapter.b)):
            tensors[f"{stem}.lora_{side}.weight"] = value.detach().cpu().float().contiguous()
    config = _config(backbone, one, sorted({names[name] for _, name in found}), base)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / TENSORS) as fresh:
        write_tensor_file(tensors, fresh, {"format": "pt"})
    write_json(folder / CONFIG, config, indent=2)
    return [folder / TENSORS, folder / CONFIG]


def has_names_in_peft(backbone: Backbone, adapters: Mapping[str, nn.Module]) -> bool:
    """Whether ``write_adapters`` can: not those of a ConvNeXt, nor one of queries, keys and values together."""
    whole = [name for name, one in adapters.items() if name.endswith(FUSED) and not isinstance(one, RowBlocks)]
    return isinstance(backbone, DinoVisionTransformer) and not whole


def _config(backbone: Backbone, one: LowRank, targets: list[str], base: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": one.rank,
        "lora_alpha": one.alpha,
        "lora_dropout": one.dropout,
        "use_rslora": one.rslora,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
    }


def _names(backbone: Backbone) -> dict[str, str]:
    """Ours to theirs, for this kind of feed-forward network."""
    if not isinstance(backbone, DinoVisionTransformer):
        raise WeightsError(f"{type(backbone).__name__}: only vision transformers have adapters in peft's layout")
    return PLAIN if backbone.config.ffn_layer == "mlp" else GATED


def _placed(backbone: Backbone) -> dict[Place, LowRank]:
    found: dict[Place, LowRank] = {}
    for name, adapter in adapters_of(backbone).items():
        _, block, _, layer = name.split(".")  # blocks.0.attn.proj
        if isinstance(adapter, RowBlocks):
            found |= {(int(block), part): cast(LowRank, adapter[part]) for part in adapter}
        elif layer == FUSED:
            raise WeightsError(f"{name}: one adapter of queries, keys and values has no name in peft: train q, k and v")
        else:
            found[int(block), layer] = adapter
    if not found:
        raise WeightsError("the model has no LoRA adapters")
    return found


def read_adapters(backbone: Backbone, folder: Path) -> int:
    """Add the adapters in ``folder`` to ``backbone``; nothing else of it trains then. Returns their parameters' number.

    Every block must have every target, every tensor a place and its shape: WeightsError otherwise, before anything of
    the backbone is changed.
    """
    config = read_json(folder / CONFIG)
    for key, allowed in PLAIN_LORA.items():
        if key in config and config[key] not in allowed:
            raise WeightsError(
                f"{folder / CONFIG}: {key} {config[key]!r}: only plain LoRA is read, {key} {allowed[0]!r}"
            )
    rank, alpha, dropout, rslora = (
        _number(config, key, folder) for key in ("r", "lora_alpha", "lora_dropout", "use_rslora")
    )
    tensors = read_weights(folder / TENSORS).tensors
    wanted, targets = _wanted(backbone, tensors, int(rank), folder)
    try:
        trained = add_lora(backbone, targets, int(rank), alpha, None, dropout=dropout, rslora=bool(rslora))
    except ValueError as error:
        raise WeightsError(f"{folder}: {error}") from error
    placed = _placed(backbone)
    with torch.no_grad():
        for key, (place, side) in wanted.items():
            (placed[place].a if side == "A" else placed[place].b).copy_(tensors[key])
    return trained


def told_of_adapters(folder: Path) -> str:
    """Rank, strength and the weights they were trained on, as their file has them; what a config says does not count."""
    config = read_json(folder / CONFIG)
    said = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "trained on": config.get("base_model_name_or_path"),
    }
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in said.items()
    )


def _number(config: Mapping[str, Any], key: str, folder: Path) -> float:
    value = config.get(key, {"lora_dropout": 0.0, "use_rslora": False}.get(key))
    least = 0 if key in ("lora_dropout", "use_rslora") else 1 if key == "r" else 1e-9
    if not isinstance(value, int | float) or not least <= value < 1e6 or (key == "r" and value != int(value)):
        raise WeightsError(f"{folder / CONFIG}: {key} {value!r}: a number from {least:g} up is needed")
    if key == "lora_dropout" and value >= 1:
        raise WeightsError(f"{folder / CONFIG}: lora_dropout {value!r}: below 1")
    return value


def _wanted(
    backbone: Backbone, tensors: Mapping[str, Tensor], rank: int, folder: Path
) -> tuple[dict[str, tuple[Place, str]], list[str]]:
    """Each key's place and side, and the targets; WeightsError unless keys and shapes are exactly what they need."""
    ours = {theirs: name for name, theirs in _names(backbone).items()}
    placed: dict[str, tuple[Place, str]] = {}
    unknown: list[str] = []
    for key in tensors:
        match = KEY.fullmatch(key)
        known = match is not None and match[3] in ours and (ours[match[3]] in ATTENTION) == (match[2] == "attention")
        if match is None or not known:
            unknown.append(key)
        else:
            placed[key] = ((int(match[1]), ours[match[3]]), match[4])
    targets = sorted({place[1] for place, _ in placed.values()})
    shapes = {(place, side): shape for place, side, shape in _shapes(backbone, targets, rank)}
    have = set(placed.values())
    missing = sorted(f"block {b} {name} {side}" for (b, name), side in shapes.keys() - have)
    unknown += [key for key, where in placed.items() if where not in shapes]
    wrong = [
        f"{key} {tuple(tensors[key].shape)}, here {shapes[where]}"
        for key, where in placed.items()
        if where in shapes and tuple(tensors[key].shape) != shapes[where]
    ]
    if unknown or missing or wrong or not placed:
        raise WeightsError(
            f"{folder / TENSORS}: does not fit this backbone: {len(missing)} missing {missing[:SHOWN]}, "
            f"{len(unknown)} without a place {unknown[:SHOWN]}, {len(wrong)} of another shape {wrong[:SHOWN]}"
        )
    return placed, targets


def _shapes(backbone: Backbone, targets: list[str], rank: int) -> Iterator[tuple[Place, str, tuple[int, int]]]:
    for index, block in enumerate(cast(DinoVisionTransformer, backbone).blocks):
        layers = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        for target in targets:
            name = f"attn.{FUSED}" if target in QKV else "attn.proj" if target == "proj" else f"mlp.{target}"
            if name not in layers:  # a compressed model's matrix that is a product
                continue
            rows, columns = layers[name].weight.shape
            yield (index, target), "A", (rank, columns)
            yield (index, target), "B", (rows // 3 if target in QKV else rows, rank)


@torch.no_grad()
def merged_backbone(backbone: Backbone) -> Backbone:
    """A plain backbone with every adapter in its layer's weight, in eval mode, for export and compression."""
    plain = backbone_from_description(describe_backbone(backbone), next(backbone.parameters()).device)
    state = {key: value for key, value in backbone.state_dict().items() if "lora" not in key.split(".")}
    plain.load_state_dict(state | merged_parameters(backbone), strict=True)
    preprocess: Any = getattr(backbone, "preprocess", None)
    if preprocess is not None:
        object.__setattr__(plain, "preprocess", preprocess)
    return plain.eval()
