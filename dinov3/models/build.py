"""From names and configs to models."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from dinov3.config.archs import CONVNEXT_ARCHS, VIT_ARCHS
from dinov3.config.schema import StudentConfig
from dinov3.models.backbone import Backbone
from dinov3.models.convnext import ConvNeXt
from dinov3.models.int8 import weights_in
from dinov3.models.presets import PRESETS
from dinov3.models.shapes import shape_line, shape_of
from dinov3.models.vit import DinoVisionTransformer

Device = torch.device | str | None
COMPRESSED = ("block_shapes", "int8")  # fields of VitConfig that only a compressed model has
OURS = (*COMPRESSED, "stem", "stem_filters")  # fields that DINOv3 has not; null in a model as it has them


def build_backbone(student: StudentConfig, *, img_size: int, drop_path: bool = True, device: Device = None) -> Backbone:
    """The backbone that the config block ``student`` describes; its weights are NaN until they are initialised or loaded.

    ``img_size`` in px; ``drop_path`` False for a teacher. Raises ValueError for an unknown ``student.arch`` or for
    dimensions that a ConvNeXt does not have.
    """
    rate = student.drop_path_rate if drop_path else 0.0
    if _known("student.arch", student.arch, [*VIT_ARCHS, *CONVNEXT_ARCHS]) in CONVNEXT_ARCHS:
        for key in ("embed_dim", "depth", "num_heads"):
            if getattr(student, key) is not None:
                raise ValueError(f"student.{key} is for vision transformers: set it to null with {student.arch}")
        return ConvNeXt(
            **CONVNEXT_ARCHS[student.arch],
            in_chans=student.in_chans,
            drop_path_rate=rate,
            device=device,
        )
    dims = {
        "embed_dim": student.embed_dim,
        "depth": student.depth,
        "num_heads": student.num_heads,
        "ffn_ratio": student.ffn_ratio,
    }
    return DinoVisionTransformer(
        **VIT_ARCHS[student.arch] | {key: value for key, value in dims.items() if value is not None},
        img_size=img_size,
        patch_size=student.patch_size,
        in_chans=student.in_chans,
        stem=None if student.stem == "patch" else student.stem,
        stem_filters=None if student.stem == "patch" else student.stem_filters,
        pos_embed_rope_base=student.pos_embed_rope_base,
        pos_embed_rope_min_period=student.pos_embed_rope_min_period,
        pos_embed_rope_max_period=student.pos_embed_rope_max_period,
        pos_embed_rope_normalize_coords=student.pos_embed_rope_normalize_coords,
        pos_embed_rope_shift_coords=student.pos_embed_rope_shift_coords,
        pos_embed_rope_jitter_coords=student.pos_embed_rope_jitter_coords,
        pos_embed_rope_rescale_coords=student.pos_embed_rope_rescale_coords,
        pos_embed_rope_dtype=student.pos_embed_rope_dtype,
        qkv_bias=student.qkv_bias,
        drop_path_rate=rate,
        layerscale_init=student.layerscale,
        norm_layer=student.norm_layer,
        ffn_layer=student.ffn_layer,
        ffn_bias=student.ffn_bias,
        proj_bias=student.proj_bias,
        n_storage_tokens=student.n_storage_tokens,
        mask_k_bias=student.mask_k_bias,
        untie_cls_and_patch_norms=student.untie_cls_and_patch_norms,
        untie_global_and_local_cls_norm=student.untie_global_and_local_cls_norm,
        device=device,
    )


def build_preset(name: str, device: Device = None) -> Backbone:
    """A released model by its hub name, without weights (NaN). Raises ValueError for an unknown name."""
    return _construct(PRESETS[_known("preset", name, list(PRESETS))], device)


def describe_backbone(backbone: nn.Module) -> dict[str, Any]:
    """What ``backbone_from_description`` needs, as JSON types: {"class", "config"}."""
    if not isinstance(backbone, DinoVisionTransformer | ConvNeXt):
        raise TypeError(f"cannot describe a {type(backbone).__name__}")
    kind = DinoVisionTransformer if isinstance(backbone, DinoVisionTransformer) else ConvNeXt
    config = asdict(backbone.config)
    # said only of models that have them: every other description stays readable by earlier versions
    config = {k: v for k, v in config.items() if v is not None or k not in OURS}
    if "block_shapes" in config:
        config["block_shapes"] = list(config["block_shapes"])
    return {"class": kind.__name__, "config": config}


def backbone_from_description(description: Mapping[str, Any], device: Device = None) -> Backbone:
    """The backbone of {"preset": name} or of what ``describe_backbone`` returned, without weights (NaN)."""
    if "preset" in description:
        return build_preset(description["preset"], device)
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (DinoVisionTransformer, ConvNeXt)}
    kind = kinds[_known("class", description["class"], list(kinds))]
    return kind(**description["config"], device=device)


def matching_preset(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The released model whose state dict has exactly these names and shapes; the first of several; None for none.

    ConvNeXt's ``norms.3`` is another name of its ``norm`` and may be missing.
    """
    wanted = {key: tuple(shape) for key, shape in shapes.items() if not key.startswith("norms.")}
    return next((name for name in PRESETS if _preset_shapes(name) == wanted), None)


@cache
def _preset_shapes(name: str) -> dict[str, tuple[int, ...]]:
    state = build_preset(name, "meta").state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if not key.startswith("norms.")}


def _construct(settings: Mapping[str, Any], device: Device) -> Backbone:
    return (
        ConvNeXt(**settings, device=device)
        if "depths" in settings
        else DinoVisionTransformer(**settings, device=device)
    )


def _known(key: str, name: str, choices: list[str]) -> str:
    if name not in choices:
        near = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)
        raise ValueError(f"{key} {name!r} is unknown: did you mean {near[0]!r}? Choose from {choices}")
    return name


def _arch(name: str, patch_size: int = 16, device: Device = None, **settings: Any) -> DinoVisionTransformer:
    return DinoVisionTransformer(**VIT_ARCHS[name] | settings, patch_size=patch_size, device=device)


# The architectures by name, for Python: any argument of DinoVisionTransformer can be given.
vit_tiny = partial(_arch, "vit_tiny")
vit_small = partial(_arch, "vit_small")
vit_base = partial(_arch, "vit_base")
vit_large = partial(_arch, "vit_large")
vit_so400m = partial(_arch, "vit_so400m")
vit_huge2 = partial(_arch, "vit_huge2")
vit_giant2 = partial(_arch, "vit_giant2")
vit_7b = partial(_arch, "vit_7b")


def backbone_lines(backbone: Backbone, size: int = 224) -> list[str]:
    """One model for people: a row as of ``model_lines``, and the widths of every block where they were cut."""
    from dinov3.models.flops import forward_flops

    numbers = sum(p.numel() for p in backbone.parameters())
    if not isinstance(backbone, DinoVisionTransformer):
        return [f"{type(backbone).__name__}, width {backbone.embed_dim}, {numbers:,} parameters"]
    cfg = backbone.config
    stored = sum(b.numel() for b in backbone.buffers() if b.dtype == torch.int8)
    numbers = weights_in(backbone) - stored
    integers = f", {stored:,} weights in 8 bits ({cfg.int8})" if cfg.int8 else ""
    flops = "" if cfg.int8 else f", {forward_flops(backbone, size, cfg.in_chans) / 1e9:.2f} GFLOP@{size}"
    head = (
        f"DinoVisionTransformer, patch {cfg.patch_size}, width {cfg.embed_dim}, {cfg.depth} blocks, {cfg.ffn_layer}, "
        f"heads of {cfg.embed_dim // cfg.num_heads}, {numbers:,} parameters{integers}{flops}"
    )
    shapes = [shape_of(block) for block in backbone.blocks]
    if cfg.block_shapes is None:
        return [head, f"every block: {shape_line(shapes[0])}"]
    return [head, *(f"block {i:2d}: {shape_line(shape)}" for i, shape in enumerate(shapes))]


def model_rows(size: int = 224) -> Iterator[dict[str, Any]]:
    """One row an architecture (``student.arch``, other arguments at their defaults), then one a released model.

    Name, dim, depth, heads, patch (px), ffn, parameters, gflops of one ``size`` px image.
    """
    from dinov3.models.flops import forward_flops  # fvcore takes time to import and only this table needs it

    for name, settings in (VIT_ARCHS | CONVNEXT_ARCHS | PRESETS).items():
        # torch cannot trace a convolution on the meta device
        model = _construct(settings, "cpu" if "depths" in settings else "meta")
        vit = model.config if isinstance(model, DinoVisionTransformer) else None
        yield {
            "name": name,
            "dim": model.embed_dim,
            "depth": vit.depth if vit else sum(settings["depths"]),
            "heads": vit.num_heads if vit else None,
            "patch": model.patch_size,
            "ffn": vit.ffn_layer if vit else None,
            "parameters": sum(p.numel() for p in model.parameters()),
            "gflops": forward_flops(model, size) / 1e9,
        }


def model_lines(size: int = 224) -> Iterator[str]:
    """``model_rows`` as the lines of a table. A multiply-add counts as 2 operations."""
    yield (
        f"{'name':24s} {'dim':>5s} {'depth':>5s} {'heads':>5s} {'patch':>5s} {'ffn':9s} {'parameters':>13s} {f'GFLOP@{size}':>10s}"
    )
    for row in model_rows(size):
        text = {key: "-" if value is None else value for key, value in row.items()}
        yield (
            f"{text['name']:24s} {text['dim']:>5} {text['depth']:>5} {text['heads']:>5} {text['patch']:>5} "
            f"{text['ffn']:9s} {row['parameters']:>13,d} {row['gflops']:>10.1f}"
        )
