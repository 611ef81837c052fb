"""``dinov3 export``: from a run or any weight file to any format, checked before it appears."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dinov3.models.backbone import Backbone
from dinov3.models.build import backbone_from_description, describe_backbone
from dinov3.models.vit import DinoVisionTransformer
from dinov3.runs.output import check_not_input, check_output_file, check_results_folder
from dinov3.system.errors import first_line
from dinov3.system.files import as_bytes, flush
from dinov3.system.paths import expanded
from dinov3.system.work_folder import work_folder
from dinov3.weights.description import read_description, sidecar_of
from dinov3.weights.files import WeightsError
from dinov3.weights.formats import Format, Written, write_huggingface, write_meta, write_safetensors, write_timm
from dinov3.weights.hub import located
from dinov3.weights.model_card import MARK, model_card, provenance_of
from dinov3.weights.onnx_graph import write_onnx
from dinov3.weights.own import export_heads, load_backbone
from dinov3.weights.parity import images_for, tokens_of, worst_token
from dinov3.weights.provenance import Facts

FORMATS = {
    f.name: f
    for f in (
        Format("meta", ".pth", False, False, write_meta),
        Format("safetensors", ".safetensors", False, False, write_safetensors),
        Format("hf", "", True, True, write_huggingface),
        Format("timm", ".safetensors", True, True, write_timm),
        Format("onnx", ".onnx", True, False, write_onnx),
    )
}
BY_SUFFIX = {".pth": "meta", ".pt": "meta", ".safetensors": "safetensors", ".onnx": "onnx"}


def export(source: Path, out: Path, *, layout: str | None = None, heads: bool = False) -> list[str]:
    """Write the backbone at ``source`` to ``out`` and return what there is to say, the written path first.

    ``layout`` is a name of FORMATS, None to go by the ending of ``out``. ``heads`` (meta only) writes DINOv3's
    ``{"teacher": ...}``. Everything is written to a temporary folder beside ``out``, read back by the program it is for,
    compared token by token, and only then moved. Raises WeightsError, CheckpointError or OSError and leaves nothing
    behind.
    """
    out = expanded(out)
    chosen = _chosen(out, layout)
    if heads and chosen.name != "meta":
        raise WeightsError(f"--heads is for --format meta: {chosen.name} holds a backbone alone")
    _refuse_to_overwrite(out, chosen)
    (check_output_file if chosen.suffix else check_results_folder)(out, "--out")
    source = located(source)
    check_not_input(out, "--out", source)
    backbone = load_backbone(source)
    reference, notes = as_computed_there(backbone, chosen)
    facts = Facts(_preprocess(backbone), provenance_of(source, cast(Any, backbone).described, notes))
    replaced = [f"{out.name} was there already: replaced"] if out.exists() else []
    with work_folder(out) as temporary:
        written = _write(source, chosen, reference, temporary / out.name, facts, heads)
        notes += written.notes
        card = model_card(source, out.name, reference, facts, written, notes)
        beside = temporary / out.name / "README.md" if chosen.suffix == "" else temporary / card_of(out).name
        beside.write_bytes(as_bytes(card))
        _move(temporary, out)
    return [str(out), str(written.parity), *notes, *replaced]


def _write(source: Path, chosen: Format, reference: Backbone, out: Path, facts: Facts, heads: bool) -> Written:
    try:
        written = chosen.write(reference, out, facts)
        if heads:
            export_heads(source, out)
    except RuntimeError as error:  # what torch raises for a file it cannot write, and its exporter for a graph
        raise WeightsError(f"{out.name}: cannot be written: {first_line(error)[:200]}") from error
    return written


def card_of(out: Path) -> Path:
    """The model card beside a file, one a file: ``photos.onnx`` and ``photos.pth`` say different things."""
    return out.with_name(f"{out.name}.md")


def _chosen(out: Path, layout: str | None) -> Format:
    name = layout or BY_SUFFIX.get(out.suffix)
    if name is None:
        raise WeightsError(f"{out}: its ending says no format: add --format {'|'.join(FORMATS)}")
    chosen = FORMATS[name]
    if chosen.suffix == "" and out.suffix in BY_SUFFIX:
        raise WeightsError(f"{out}: --format {name} writes a folder: give its name")
    if chosen.suffix and BY_SUFFIX.get(out.suffix) != BY_SUFFIX[chosen.suffix]:
        raise WeightsError(f"{out}: give a file name that ends in {chosen.suffix} for --format {name}")
    return chosen


def _refuse_to_overwrite(out: Path, chosen: Format) -> None:
    """Other people's files stay; an earlier export is replaced."""
    if chosen.suffix == "":
        if out.exists() and not (
            (out / "README.md").is_file() and MARK in (out / "README.md").read_text(encoding="utf-8", errors="replace")
        ):
            raise WeightsError(f"{out}: exists and is no export of this program: give another name")
        return
    if out.is_dir():
        raise WeightsError(f"{out}: is a folder: give a file name that ends in {chosen.suffix}")
    if chosen.name == "meta" and sidecar_of(out).exists():
        read_description(sidecar_of(out))
        for other in (out.with_suffix(suffix) for suffix in (".pth", ".pt") if suffix != out.suffix):
            if other.exists():
                raise WeightsError(f"{sidecar_of(out)}: describes {other.name}: give another name")
    if card_of(out).exists() and MARK not in card_of(out).read_text(encoding="utf-8", errors="replace"):
        raise WeightsError(f"{card_of(out)}: is in the way and no export of this program: give another name")


def _move(temporary: Path, out: Path) -> None:
    """Flush the files and put them in their places, the weights last; a folder as a whole."""
    for path in temporary.rglob("*"):
        if path.is_file():
            flush(path)
    if (temporary / out.name).is_dir():
        if out.exists():
            os.rename(out, temporary / "before")
        os.rename(temporary / out.name, out)
        return
    for path in sorted(temporary.iterdir(), key=lambda p: p.name == out.name):
        os.replace(path, out.parent / path.name)


def _preprocess(backbone: Backbone) -> dict[str, Any]:
    """How to feed it, with as many channel statistics as it has channels."""
    found: dict[str, Any] = dict(getattr(backbone, "preprocess", {}))
    for key, neutral in (("mean", 0.0), ("std", 1.0)):
        if len(found.get(key, ())) != backbone.in_chans:
            found[key] = [neutral] * backbone.in_chans
    return found


def as_computed_there(backbone: Backbone, chosen: Format) -> tuple[Backbone, list[str]]:
    """The backbone, in eval mode, with its rotary tables as the format computes them, and what that changes."""
    if not isinstance(backbone, DinoVisionTransformer) or not chosen.fp32_rope:
        return backbone, []
    described = describe_backbone(backbone)
    described["config"] = {**described["config"], "pos_embed_rope_dtype": "fp32"}
    other = backbone_from_description(described)
    assert isinstance(other, DinoVisionTransformer)
    state: dict[str, Tensor] = backbone.state_dict()
    other.load_state_dict(state)
    if chosen.own_periods and backbone.config.pos_embed_rope_base is not None:
        other.rope_embed.init_weights()
    other.eval()
    own = backbone.config.pos_embed_rope_dtype
    with torch.no_grad():
        worst = max(worst_token(tokens_of(other, x), tokens_of(backbone, x)) for x in images_for(backbone))
    if worst == 0.0:
        return other, []
    periods = " and periods" if chosen.own_periods else ""
    return other, [
        f"rotary tables{periods} are computed in float32 there, here in {own}: the worst token moves by {worst:.1e}"
    ]
