"""Which program wrote a weight file, told by its tensor names, and its tensors under our names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dinov3.weights.description import checked_description, from_metadata, is_description, read_description, sidecar_of
from dinov3.weights.files import RawWeights, WeightsError, read_json, read_weights
from dinov3.weights.names import huggingface_names, timm_names
from dinov3.weights.names.recognition import Shapes, is_convnext, seen_settings, vit_arguments
from dinov3.weights.reading.dcp_folder import is_dcp, read_dcp
from dinov3.weights.reading.errors import clipped
from dinov3.weights.reading.tables import without_wrappers
from dinov3.weights.settings import check_agreement, checked_settings, said

HEADS = ("dino_head.", "ibot_head.")
SHOWN = 5  # names in a message
# Tensors that a layout never has; whoever loads it leaves them at their first value.
NEVER_IN = {"timm": ("mask_token",)}


EARLIER_VITS = (
    "it has learned position embeddings (pos_embed): weights of DINOv2, DINO or another ViT before DINOv3, whose positions "
    "are rotary: no setting makes them fit; take DINOv3's weights (`dinov3 models` lists them)"
)


Translated = tuple[dict[str, Tensor], list[str]]  # our tensors, and their names that have no place here


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

    def __post_init__(self) -> None:
        """WeightsError for tensors of impossible dimensions, and for a description of other sizes than theirs."""
        check_agreement(self.description["config"] if self.description else None, self.shapes, self.source)

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
    raw = replace(raw, tensors=without_wrappers(raw.tensors))
    if (described is None or described["config"].get("int8") is None) and (integers := _integers(raw)):
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
        if {"pos_embed", "embeddings.position_embeddings"} & set(backbone):
            raise WeightsError(f"{raw.path}: {EARLIER_VITS}")
        if adapters := [name for name in raw.tensors if ".lora_" in name or name.startswith("base_model.")]:
            raise WeightsError(
                f"{raw.path}: holds adapters ({clipped(adapters[0])}), which say how a model was changed and not what it "
                "is: merge them into their model (merge_and_unload) and give that"
            )
        names = [clipped(name) for name in sorted(raw.tensors)[:SHOWN]]
        raise WeightsError(f"{raw.path}: no layout known here (Meta, Hugging Face, timm, DCP) has names like {names}")
    if "pos_embed" in backbone:
        raise WeightsError(f"{raw.path}: {EARLIER_VITS}")
    heads = {k: v for k, v in whole.items() if k.startswith(HEADS)}
    return ModelWeights(str(raw.path), layout, raw, backbone, heads, described)


def model_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as a whole model has them: ``backbone.*``, ``dino_head.*``, ``ibot_head.*``.

    A flat backbone, as released, gets ``backbone.`` in front.
    """
    bare = without_wrappers(tensors)
    if any(name.startswith("backbone.") for name in bare):
        return bare
    return {f"backbone.{name}": tensor for name, tensor in bare.items()}


def _huggingface_vit(raw: RawWeights, described: dict[str, Any] | None) -> ModelWeights:
    if raw.config is None:
        raise WeightsError(f"{raw.path}: a Hugging Face model needs its config.json: give the folder that holds both")
    if (kind := raw.config.get("model_type")) != "dinov3_vit":
        raise WeightsError(f"{raw.path}: config.json says model_type {said(kind)}, dinov3_vit is read here")
    stated = huggingface_names.vit_settings(raw.config, str(raw.path))
    asked = {"num_attention_heads": stated["num_heads"], "rope_theta": stated["pos_embed_rope_base"]}
    ours, unknown = _translated(raw, huggingface_names.vit_to_ours, asked)
    _all_placed(raw, unknown)
    if described is None:
        described = _describe_vit(raw, {k: tuple(v.shape) for k, v in ours.items()}, stated) | _preprocess(raw)
    return ModelWeights(str(raw.path), "Hugging Face", raw, ours, {}, described, stated)


def _translated(raw: RawWeights, to_ours: Callable[..., Translated], heads: Any) -> Translated:
    try:
        return to_ours(raw.tensors, heads)
    except ValueError as error:
        raise WeightsError(f"{raw.path}: {error}") from error


def _preprocess(raw: RawWeights) -> dict[str, Any]:
    """``{"preprocess": ...}`` when a Hugging Face folder says how its images are prepared."""
    beside = raw.files[0].with_name("preprocessor_config.json")
    if raw.config is None or not beside.is_file():
        return {}
    found = huggingface_names.preprocess_of(read_json(beside), str(beside))
    return {"preprocess": found} if found else {}


def _timm_vit(raw: RawWeights, described: dict[str, Any] | None) -> ModelWeights:
    heads = described["config"].get("num_heads") if described else None
    ours, unknown = _translated(raw, timm_names.vit_to_ours, heads)
    _all_placed(raw, unknown)
    stated = dict(timm_names.SETTINGS)
    if described is not None:
        stated["norm_layer"] = described["config"].get("norm_layer", stated["norm_layer"])
    else:
        described = _describe_vit(raw, {k: tuple(v.shape) for k, v in ours.items()}, stated)
    return ModelWeights(str(raw.path), "timm", raw, ours, {}, described, stated)


def _describe_vit(raw: RawWeights, shapes: Shapes, stated: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = vit_arguments(seen_settings(shapes))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{raw.path}: tensors are missing, the architecture cannot be told: {error}") from error
    kind = "DinoVisionTransformer"
    return {"class": kind, "config": checked_settings(kind, {**arguments, **stated}, str(raw.path))}


def _convnext(
    raw: RawWeights, layout: str, described: dict[str, Any] | None, ours: dict[str, Tensor], unknown: list[str]
) -> ModelWeights:
    _all_placed(raw, unknown)
    shapes = {k: tuple(v.shape) for k, v in ours.items()}
    check_agreement(None, shapes, str(raw.path))
    if described is None:
        if not is_convnext(shapes):
            raise WeightsError(f"{raw.path}: tensors are missing, the architecture cannot be told")
        seen = seen_settings(shapes)
        described = {
            "class": "ConvNeXt",
            "config": checked_settings("ConvNeXt", seen, str(raw.path)),
            **_preprocess(raw),
        }
    return ModelWeights(str(raw.path), layout, raw, ours, {}, described)


def _all_placed(raw: RawWeights, unknown: list[str]) -> None:
    if unknown:
        shapes = {k.removeprefix("model."): f" {tuple(v.shape)}" for k, v in raw.tensors.items()}
        listed = [f"{clipped(name)}{shapes.get(name, '')}" for name in unknown[:SHOWN]]
        raise WeightsError(f"{raw.path}: {len(unknown)} of {len(raw.tensors)} tensors have no place here: {listed}")
