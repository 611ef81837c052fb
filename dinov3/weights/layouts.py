"""Which program wrote a weight file, told by its tensor names, and its tensors under our names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dinov3.weights.recognition import Shapes, is_convnext, seen_settings, vit_arguments
from dinov3.weights import huggingface_names, timm_names
from dinov3.weights.dcp_folder import is_dcp, read_dcp
from dinov3.weights.description import checked_description, from_metadata, is_description, read_description, sidecar_of
from dinov3.weights.files import RawWeights, WeightsError, read_json, read_weights

# Written by wrappers and by whole-model checkpoints in front of the backbone's own names; taken off, nothing else is.
WRAPPERS = ("module.", "_orig_mod.", "teacher.", "model_ema.")
HEADS = ("dino_head.", "ibot_head.")
SHOWN = 5  # names in a message
# Tensors that a layout never has; whoever loads it leaves them at their first value.
NEVER_IN = {"timm": ("mask_token",)}


@dataclass(frozen=True)
class ModelWeights:
    """A model read from outside, under our names."""

    source: str
    layout: str  # "Meta", "Hugging Face", "timm", "DCP" or "dinov3"
    raw: RawWeights
    backbone: dict[str, Tensor]  # without "backbone."
    heads: dict[str, Tensor] = field(default_factory=dict)  # dino_head.*, ibot_head.*
    description: dict[str, Any] | None = None  # {"class", "config", ...}: all of the architecture, when known
    stated: dict[str, Any] = field(default_factory=dict)  # student keys the layout or its config fixes, beyond shapes

    @property
    def absent(self) -> tuple[str, ...]:
        """The backbone's tensors that this layout never has."""
        return NEVER_IN.get(self.layout, ()) if "cls_token" in self.backbone else ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the backbone's tensors."""
        return {k: tuple(v.shape) for k, v in self.backbone.items()}


def read_model(path: Path) -> ModelWeights:
    """The model at ``path``: any file or folder ``read_weights`` reads, or a checkpoint folder of DINOv3 (DCP).

    Raises WeightsError, also when a tensor has no place here.
    """
    if path.is_dir() and is_dcp(path):
        tensors, files = read_dcp(path)
        raw = RawWeights(path, files, tensors)
        return _official(raw, "DCP", None)
    raw = read_weights(path)
    described = _described(raw)
    if (described is None or "int8" not in described["config"]) and (integers := _integers(raw)):
        raise WeightsError(f"{path}: {integers[0]} holds integers, and no description of ours says how to read them")
    names = set(raw.tensors)
    if huggingface_names.is_vit(names):
        return _huggingface_vit(raw, described)
    if huggingface_names.is_convnext(names):
        if raw.config is not None and not is_description(raw.config):
            huggingface_names.check_convnext_config(raw.config, str(path))
        return _convnext(raw, "Hugging Face", described, *huggingface_names.convnext_to_ours(raw.tensors))
    if timm_names.is_vit(names):
        return _timm_vit(raw, described)
    if timm_names.is_convnext(names):
        return _convnext(raw, "timm", described, *timm_names.convnext_to_ours(raw.tensors))
    return _official(raw, "Meta" if described is None else "dinov3", described)


def _integers(raw: RawWeights) -> list[str]:
    return [name for name, tensor in raw.tensors.items() if not tensor.is_floating_point()]


def _described(raw: RawWeights) -> dict[str, Any] | None:
    """Our own description: in the file, in ``config.json``, or beside the file."""
    if (found := from_metadata(raw.metadata, str(raw.path))) is not None:
        return found
    if raw.config is not None:
        return checked_description(raw.config, str(raw.path)) if is_description(raw.config) else None
    beside = sidecar_of(raw.path)
    return read_description(beside) if not raw.path.is_dir() and beside.is_file() else None


def _official(raw: RawWeights, layout: str, described: dict[str, Any] | None) -> ModelWeights:
    whole = model_part(raw.tensors)
    backbone = {k.removeprefix("backbone."): v for k, v in whole.items() if not k.startswith(HEADS)}
    if not {"patch_embed.proj.weight", "downsample_layers.0.0.weight"} & set(backbone):
        raise WeightsError(
            f"{raw.path}: no layout known here (Meta, Hugging Face, timm, DCP) has names like {sorted(raw.tensors)[:SHOWN]}"
        )
    heads = {k: v for k, v in whole.items() if k.startswith(HEADS)}
    return ModelWeights(str(raw.path), layout, raw, backbone, heads, described)


def model_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as a whole model has them: ``backbone.*``, ``dino_head.*``, ``ibot_head.*``.

    A flat backbone, as released, gets ``backbone.`` in front.
    """
    bare = {}
    for name, tensor in tensors.items():
        while name.startswith(WRAPPERS):
            name = next(name.removeprefix(w) for w in WRAPPERS if name.startswith(w))
        bare[name] = tensor
    if any(name.startswith("backbone.") for name in bare):
        return bare
    return {f"backbone.{name}": tensor for name, tensor in bare.items()}


def _huggingface_vit(raw: RawWeights, described: dict[str, Any] | None) -> ModelWeights:
    if raw.config is None:
        raise WeightsError(f"{raw.path}: a Hugging Face model needs its config.json: give the folder that holds both")
    if (kind := raw.config.get("model_type")) != "dinov3_vit":
        raise WeightsError(f"{raw.path}: config.json says model_type {kind!r}, dinov3_vit is read here")
    stated = huggingface_names.vit_settings(raw.config, str(raw.path))
    ours, unknown = huggingface_names.vit_to_ours(raw.tensors, raw.config)
    _all_placed(raw, unknown)
    if described is None:
        described = _describe_vit(raw, {k: tuple(v.shape) for k, v in ours.items()}, stated) | _preprocess(raw)
    return ModelWeights(str(raw.path), "Hugging Face", raw, ours, {}, described, stated)


def _preprocess(raw: RawWeights) -> dict[str, Any]:
    """``{"preprocess": ...}`` when a Hugging Face folder says how its images are prepared."""
    beside = raw.files[0].with_name("preprocessor_config.json")
    found = huggingface_names.preprocess_of(read_json(beside)) if raw.config is not None and beside.is_file() else {}
    return {"preprocess": found} if found else {}


def _timm_vit(raw: RawWeights, described: dict[str, Any] | None) -> ModelWeights:
    heads = described["config"]["num_heads"] if described else None
    ours, unknown = timm_names.vit_to_ours(raw.tensors, heads)
    _all_placed(raw, unknown)
    stated = dict(timm_names.SETTINGS)
    if described is not None:
        stated["norm_layer"] = described["config"]["norm_layer"]
    else:
        described = _describe_vit(raw, {k: tuple(v.shape) for k, v in ours.items()}, stated)
    return ModelWeights(str(raw.path), "timm", raw, ours, {}, described, stated)


def _describe_vit(raw: RawWeights, shapes: Shapes, stated: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = vit_arguments(seen_settings(shapes))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{raw.path}: tensors are missing, the architecture cannot be told: {error}") from error
    return {"class": "DinoVisionTransformer", "config": {**arguments, **stated}}


def _convnext(
    raw: RawWeights, layout: str, described: dict[str, Any] | None, ours: dict[str, Tensor], unknown: list[str]
) -> ModelWeights:
    _all_placed(raw, unknown)
    shapes = {k: tuple(v.shape) for k, v in ours.items()}
    if described is None:
        if not is_convnext(shapes):
            raise WeightsError(f"{raw.path}: tensors are missing, the architecture cannot be told")
        described = {"class": "ConvNeXt", "config": seen_settings(shapes), **_preprocess(raw)}
    return ModelWeights(str(raw.path), layout, raw, ours, {}, described)


def _all_placed(raw: RawWeights, unknown: list[str]) -> None:
    if unknown:
        listed = [f"{name} {tuple(raw.tensors[name].shape)}" for name in unknown[:SHOWN]]
        raise WeightsError(f"{raw.path}: {len(unknown)} of {len(raw.tensors)} tensors have no place here: {listed}")
