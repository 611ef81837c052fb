"""A backbone as other programs want it: written beside its place, read back by that program, compared, then moved."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import Tensor

from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.description import as_metadata, sidecar_of
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import fingerprint
from dinov3.weights.names import huggingface_names, timm_names
from dinov3.weights.names.recognition import seen_settings, vit_arguments
from dinov3.weights.names.translation import effective, translate
from dinov3.weights.own import description, load_backbone, without_aliases
from dinov3.weights.parity import Parity, compare, tokens_of
from dinov3.weights.provenance import Facts
from dinov3.weights.tensor_file import write_tensor_file, write_torch_file

EXTRAS = {"transformers": "hf", "timm": "timm", "onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx"}


@dataclass(frozen=True)
class Written:
    """What a format has to say about a file it wrote."""

    parity: Parity
    how_to_load: str  # Python, for the model card
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One way to write a backbone."""

    name: str
    suffix: str  # of ``out``; "" for a folder
    fp32_rope: bool  # computes rotary tables in float32
    own_periods: bool  # and their periods from the base
    write: Callable[[Backbone, Path, Facts], Written]


def require(package: str) -> ModuleType:
    """An optional package; WeightsError with what to install when it is not there."""
    try:
        prepare_torchvision()  # transformers and timm import torchvision
        return importlib.import_module(package)
    except ImportError as error:
        raise WeightsError(f"{package} cannot be imported ({error}): pip install 'dinov3[{EXTRAS[package]}]'") from None


def write_meta(backbone: Backbone, out: Path, facts: Facts) -> Written:
    """A flat ``.pth`` as Meta releases them, with its architecture in ``OUT.json``.

    No fingerprint in there: two files cannot be replaced at once, and a reader may meet an old one beside a new one.
    """
    write_torch_file(dict(backbone.state_dict()), out)
    sidecar_of(out).write_text(json.dumps(description(backbone, facts), indent=1), encoding="utf-8")
    parity = compare(backbone, partial(tokens_of, load_backbone(out)), out.name)
    return Written(parity, _load_ours(out))


def write_safetensors(backbone: Backbone, out: Path, facts: Facts) -> Written:
    """Our names in one safetensors file whose metadata describe the architecture."""
    described = description(backbone, facts) | {"fingerprint": fingerprint(backbone)}
    state = {k: v.detach().contiguous() for k, v in without_aliases(backbone).items()}
    write_tensor_file(state, out, as_metadata(described))
    parity = compare(backbone, partial(tokens_of, load_backbone(out)), out.name)
    return Written(parity, _load_ours(out))


def _load_ours(out: Path) -> str:
    return (
        "from dinov3 import features\n\n"
        f'model = features.load("{out.name}")\n'
        'model.extract("image.jpg", pool="cls")  # [1, D]'
    )


def _translated(layout: str, backbone: Backbone, facts: Facts) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Their tensors, and the metadata with which they come back exactly."""
    found = describe_backbone(backbone)
    tensors = translate(layout, found["class"], found["config"], dict(backbone.state_dict()))
    if found["class"] != "ConvNeXt":  # the file has layers this backbone has not, which do nothing: say so
        heads = found["config"]["num_heads"]
        if layout == "timm":
            ours, _ = timm_names.vit_to_ours(tensors, heads)
        else:
            ours, _ = huggingface_names.vit_to_ours(tensors, {"num_attention_heads": heads})
        seen = seen_settings({k: tuple(v.shape) for k, v in ours.items()})
        found["config"] = {**found["config"], **vit_arguments(seen)}
    described = {**description(backbone, facts), **found, "fingerprint": fingerprint(backbone)}
    return tensors, as_metadata(described)


def write_huggingface(backbone: Backbone, out: Path, facts: Facts) -> Written:
    """A folder that ``transformers.AutoModel.from_pretrained`` reads, with the image processor's settings."""
    transformers = require("transformers")
    tensors, metadata = _translated("Hugging Face", backbone, facts)
    config = describe_backbone(backbone)["config"]
    size = int(facts.preprocess.get("size") or 224)
    out.mkdir()
    write_tensor_file(tensors, out / "model.safetensors", metadata)
    is_vit = isinstance(backbone, DinoVisionTransformer)
    theirs = (
        huggingface_names.vit_config(config, effective(dict(backbone.state_dict())))
        if is_vit
        else huggingface_names.convnext_config(config, size)
    )
    (out / "config.json").write_text(json.dumps(theirs, indent=2), encoding="utf-8")
    (out / "preprocessor_config.json").write_text(
        json.dumps(huggingface_names.processor_config(facts.preprocess, size), indent=2), encoding="utf-8"
    )
    logging = transformers.utils.logging
    logging.disable_progress_bar()
    other, info = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    if lost := [f"{k} {v}" for k, v in info.items() if v]:
        raise WeightsError(f"transformers {transformers.__version__} does not read what was written: {lost}")

    def tokens(images: Tensor) -> Tensor:
        found: Tensor = other.eval()(pixel_values=images).last_hidden_state
        return found

    parity = compare(backbone, tokens, f"transformers' {type(other).__name__}")
    how = (
        "from transformers import AutoImageProcessor, AutoModel\n\n"
        f'model = AutoModel.from_pretrained("{out.name}")  # {type(other).__name__}\n'
        f'processor = AutoImageProcessor.from_pretrained("{out.name}")\n'
        'tokens = model(**processor(image, return_tensors="pt")).last_hidden_state  # class, register, patch tokens'
    )
    return Written(parity, how, _dropped(backbone, ()))


def write_timm(backbone: Backbone, out: Path, facts: Facts) -> Written:
    """A safetensors file for ``timm.create_model(NAME)`` and a strict ``load_state_dict``; the card says which NAME."""
    timm = require("timm")
    tensors, metadata = _translated("timm", backbone, facts)
    write_tensor_file(tensors, out, metadata)
    config, is_vit = describe_backbone(backbone)["config"], isinstance(backbone, DinoVisionTransformer)
    state = dict(backbone.state_dict())
    name, arguments = timm_names.vit_model(config, effective(state)) if is_vit else timm_names.convnext_model(config)
    eps = arguments.pop("norm_eps", None)
    shown = [f"{k}={v!r}" for k, v in arguments.items()]
    if eps is not None:
        arguments["norm_layer"] = partial(timm.layers.LayerNorm, eps=eps)
        shown.append(f"norm_layer=partial(timm.layers.LayerNorm, eps={eps:g})")
    other = timm.create_model(name, pretrained=False, **arguments)
    other.load_state_dict(load_file(out), strict=True)
    other.eval()

    def tokens(images: Tensor) -> Tensor:
        found: Tensor = other.forward_features(images)
        if is_vit:
            return found
        patches = other.head.norm(found).flatten(2).mT  # [N, P, D]
        return torch.cat([other(images)[:, None], patches], dim=1)

    parity = compare(backbone, tokens, f"timm's {name}")
    how = (
        ("from functools import partial\n\n" if eps is not None else "")
        + "import timm\nfrom safetensors.torch import load_file\n\n"
        + f"model = timm.create_model({', '.join([repr(name), *shown])})\n"
        + f'model.load_state_dict(load_file("{out.name}"), strict=True)\n'
        + ("# class token: model.forward_features(images)[:, 0]; timm's own pooling is the mean\n" if is_vit else "")
    )
    return Written(parity, how, _dropped(backbone, ("mask_token",)))


def _dropped(backbone: Backbone, always: tuple[str, ...]) -> tuple[str, ...]:
    """A note about tensors of the training that the layout does not have."""
    lost = [n for n in (*always, "local_cls_norm.weight") if n in backbone.state_dict()]
    return (f"left out, used in training only: {', '.join(lost)}",) if lost else ()
