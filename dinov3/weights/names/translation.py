"""A backbone's tensors under the names other programs have for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dinov3.config.archs import CONVNEXT_ARCHS
from dinov3.config.schema import StudentConfig
from dinov3.weights.files import WeightsError
from dinov3.weights.names import huggingface_names, timm_names


class Untranslatable(WeightsError):
    """A layout cannot say what this backbone is."""


def effective(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors with the bias masks multiplied in, without buffers and second names."""
    masks = {k: v for k, v in state.items() if k.endswith("bias_mask")}
    plain = {
        k: v.detach().cpu().float()
        for k, v in state.items()
        if k not in masks and k != "rope_embed.periods" and not k.startswith("norms.")
    }
    for name, mask in masks.items():
        bias = name.removesuffix("_mask")
        plain[bias] = torch.where(mask.cpu() == 0, 0.0, plain[bias] * mask.cpu().float())
    return plain


def translate(layout: str, kind: str, settings: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors under the names of "Hugging Face" or "timm".

    ``kind`` and ``settings`` as ``describe_backbone`` gives them. Layers the layout insists on and the backbone does
    not have are written so that they change nothing (LayerScale 1, bias 0). Raises Untranslatable.
    """
    tensors = effective(state)
    to_huggingface = layout == "Hugging Face"
    if kind == "ConvNeXt":
        convert = huggingface_names.CONVNEXT.to_theirs if to_huggingface else timm_names.convnext_from_ours
    else:
        refuse_untranslatable(layout, settings)
        tensors = {k: v for k, v in tensors.items() if not k.startswith("local_cls_norm.")}  # for training only
        tensors = with_inert_layers(tensors, settings, biases=not to_huggingface)
        convert = huggingface_names.vit_from_ours if to_huggingface else timm_names.vit_from_ours
    theirs, unknown = convert(tensors)
    assert not unknown, unknown
    return theirs


def refuse_untranslatable(layout: str, settings: Mapping[str, Any]) -> None:
    """Raise Untranslatable for the first setting that ``layout`` has no words for."""
    for key in unspeakable(layout, settings):
        value = "a compressed model" if key in ("block_shapes", "int8") else settings[key]
        raise Untranslatable(f"{layout} has no words for {key}: {value}: use --format safetensors, meta or onnx")


def unspeakable(layout: str, settings: Mapping[str, Any]) -> list[str]:
    """The settings of a vision transformer that "Hugging Face" or "timm" have no words for."""
    base = settings["pos_embed_rope_base"]
    reasons = {
        "block_shapes": settings.get("block_shapes") is not None,
        "int8": settings.get("int8") is not None,
        "stem": settings.get("stem") not in (None, "patch"),
        "norm_layer": settings["norm_layer"] == "rmsnorm",
        "untie_cls_and_patch_norms": settings["untie_cls_and_patch_norms"],
        "pos_embed_rope_normalize_coords": settings["pos_embed_rope_normalize_coords"] != "separate",
        "pos_embed_rope_base": base is None or (layout == "timm" and base != timm_names.ROPE_BASE),
    }
    return [key for key, refused in reasons.items() if refused]


def export_limits(student: StudentConfig) -> list[str]:
    """One line for each layout that a backbone of this config could not be exported to; for the start of a training.

    A ConvNeXt goes into every layout.
    """
    if student.arch in CONVNEXT_ARCHS:
        return []
    lines = []
    for name, layout in (("hf", "Hugging Face"), ("timm", "timm")):
        if keys := unspeakable(layout, vars(student)):
            told = ", ".join(f"student.{key}={vars(student)[key]}" for key in keys)
            lines.append(
                f"not exportable with --format {name}: {layout} has no words for {told}; the other formats have"
            )
    return lines


def with_inert_layers(tensors: dict[str, Tensor], settings: dict[str, Any], *, biases: bool) -> dict[str, Tensor]:
    """``tensors`` with LayerScale 1, and with ``biases`` the missing ones as 0."""
    dim = settings["embed_dim"]
    completed = dict(tensors)
    for index in range(settings["depth"]):
        block = f"blocks.{index}"
        for scale in ("ls1", "ls2"):
            completed.setdefault(f"{block}.{scale}.gamma", torch.ones(dim))
        if biases:
            for layer in ("attn.proj", *(f"mlp.{x}" for x in ("fc1", "fc2", "w1", "w2", "w3"))):
                weight = tensors.get(f"{block}.{layer}.weight")
                if weight is not None:
                    completed.setdefault(f"{block}.{layer}.bias", torch.zeros(weight.shape[0]))
    return completed
