"""The EMA backbone out of a run, and back in: our own folder, and the official ``.pth`` layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.distributed.shard import fill
from dinov3.models.backbone import Backbone
from dinov3.models.build import backbone_from_description, describe_backbone, matching_preset
from dinov3.models.convnext import N_STAGES
from dinov3.models.presets import PRESETS
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.folder import STAGES
from dinov3.runs.manifest import problem_with
from dinov3.runs.stage_record import last_finished, read_stages
from dinov3.runs.step_folders import CheckpointError, newest_valid, step_folders
from dinov3.runs.student_folders import student_folders
from dinov3.weights.description import BACKBONE, FORMAT, VERSION, is_description, read_description, sidecar_of
from dinov3.weights.files import CONFIG, RawWeights, WeightsError
from dinov3.weights.fingerprint import TOLERANCE, distance, fingerprint
from dinov3.weights.hub import located
from dinov3.weights.layouts import ModelWeights, read_model
from dinov3.weights.names.recognition import differences, is_convnext, seen_settings
from dinov3.weights.provenance import NOT_TOLD, Facts, Provenance
from dinov3.weights.reading.errors import one_line
from dinov3.weights.tensor_file import write_tensor_file, write_torch_file

WEIGHTS = BACKBONE
# Channel statistics of the two data sets the released models were trained on.
PHOTOGRAPHS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SATELLITE = {"mean": [0.430, 0.411, 0.296], "std": [0.213, 0.156, 0.143]}


def description(backbone: nn.Module, facts: Facts) -> dict[str, Any]:
    """What ``config.json`` says: everything needed to build the backbone again and to feed it, and where it comes from."""
    told = {"provenance": facts.provenance.as_json()} if facts.provenance.rows else {}
    built = describe_backbone(backbone)
    return {"format": FORMAT, "format_version": VERSION, **built, "preprocess": facts.preprocess, **told}


def write_backbone(
    folder: Path, backbone: nn.Module, preprocess: dict[str, Any], provenance: Provenance = NOT_TOLD
) -> None:
    """Write ``backbone.safetensors`` and ``config.json`` into ``folder``."""
    state = {k: v.detach().cpu().contiguous() for k, v in without_aliases(backbone).items()}
    write_tensor_file(state, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(
        json.dumps(description(backbone, Facts(preprocess, provenance)), indent=1), encoding="utf-8"
    )


def without_aliases(module: nn.Module) -> dict[str, Tensor]:
    """State dict with one name a tensor (ConvNeXt's ``norms.3`` is its ``norm``); safetensors refuses shared memory."""
    kept: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {k: v for k, v in state.items() if kept.setdefault(id(v), k) == k}


def with_aliases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of ``without_aliases`` for a backbone's tensors: every name that its state dict has."""
    if not is_convnext({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        return tensors
    last = f"norms.{N_STAGES - 1}."
    twice = {last + k.removeprefix("norm."): v for k, v in tensors.items() if k.startswith("norm.")}
    return tensors | twice


def load_backbone(path: str | Path, *, preset: str | None = None) -> Backbone:
    """The backbone stored at ``path``, in eval mode, on the CPU.

    ``path`` is a run folder (its newest whole checkpoint), a checkpoint folder, one of our exports, an official
    ``.pth`` or DCP folder, a Hugging Face folder or Hub id, or a safetensors file of timm; ``~`` is the home folder. A ``.pth`` says nothing about its
    architecture: it is taken from ``FILE.json`` beside it, from ``preset`` (a released model's name), or recognised by
    its names and shapes. A fingerprint stored with the weights is compared.

    Its attribute ``described`` is our description of it, None where there is none; ``preprocess`` says how to feed it: ``mean`` and ``std`` of each channel, and the training ``size`` in
    pixels when the file knows it.

    Raises WeightsError or CheckpointError when a name is missing or left over, when a shape differs, or when the
    architecture cannot be told.
    """
    if preset is not None and preset not in PRESETS:
        raise WeightsError(f"preset {preset!r} is unknown: choose from {sorted(PRESETS)}")
    path = located(path)
    source = _read_located(path, heads=False)
    described = {"preset": preset} if preset is not None else source.description
    if described is None:
        found = matching_preset(source.shapes)
        if found is None:
            raise WeightsError(f"{path}: cannot tell the architecture: {_how_to_tell(path)}")
        described = {"preset": found}
    backbone = _built(described, source, str(path))
    check_fingerprint(backbone, described, str(path))
    statistics = SATELLITE if str(described.get("preset")).endswith("SAT493M") else PHOTOGRAPHS
    object.__setattr__(backbone, "preprocess", described.get("preprocess", statistics))
    object.__setattr__(backbone, "described", described if is_description(described) else None)
    return backbone.eval()


def _built(described: dict[str, Any], source: ModelWeights, path: str) -> Backbone:
    """The backbone with its weights. Names and shapes are compared before memory is asked for."""
    tensors = source.backbone | absent_tensors(source)
    try:
        skeleton = backbone_from_description(described, "meta")
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: sizes beyond what torch can count
        raise WeightsError(f"{path}: its description fits no model here: {one_line(error)}") from error
    check_fit(skeleton, tensors, path)
    backbone = backbone_from_description(described)
    fill_strictly(backbone, tensors, path)
    return backbone


def _how_to_tell(path: Path) -> str:
    """What to do about a file whose names and shapes no released model has; a preset cannot fit either."""
    beside = sidecar_of(path).name
    return (
        f"no {beside} beside it and no released model has these names and shapes: put the config.json of the run it "
        f"came from there as {beside}, or give the run itself, a Hugging Face folder or a safetensors export"
    )


def absent_tensors(source: ModelWeights) -> dict[str, Tensor]:
    """What the source's layout never has, at its first value: zero."""
    width = source.shapes["cls_token"][-1] if source.absent else 0
    return {name: torch.zeros(1, width) for name in source.absent}


def check_fingerprint(backbone: Backbone, described: dict[str, Any], source: str) -> None:
    """WeightsError when the backbone does not make of the fixed picture what was written down at its export."""
    stored = described.get("fingerprint")
    if stored is not None and (off := distance(fingerprint(backbone), stored)) > TOLERANCE:
        raise WeightsError(
            f"{source}: its features are not those it was exported with (relative distance {off:.2g}, at most {TOLERANCE:g}): "
            "weights and description do not belong together"
        )


def read_source(path: Path, *, heads: bool = True) -> ModelWeights:
    """The model at ``path`` under our names: whatever ``dinov3.weights.layouts.read_model`` reads, or a run of ours.

    A run's newest whole checkpoint is read with its heads, or without them the backbone file alone.
    """
    return _read_located(located(path), heads=heads)


def _read_located(path: Path, *, heads: bool) -> ModelWeights:
    if not path.is_dir() or not is_own(path):
        return read_model(path)
    weights = _weights_in(path)
    described = read_description(weights.with_name(CONFIG))
    if not heads or not (weights.parent / "state").is_dir():
        return replace(read_model(weights), source=str(path))
    tensors = read_tensors(weights.parent / "state", prefix="model_ema.")
    if not tensors:  # of a trainer that has no teacher, as fine-tuning's: the backbone it keeps is what there is
        return replace(read_model(weights), source=str(path))
    raw = RawWeights(path, [weights.with_name("manifest.json")], tensors)  # it holds the sha256 of every file
    backbone = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
    others = {k: v for k, v in tensors.items() if not k.startswith("backbone.")}
    return ModelWeights(str(path), "dinov3", raw, backbone, others, described)


def is_own(folder: Path) -> bool:
    """A run (with stages or without), one of its checkpoints, students, or a folder with a backbone of ours?"""
    return bool(
        (folder / STAGES).is_file()
        or (folder / "ckpt").is_dir()
        or (folder / "manifest.json").is_file()
        or (folder / WEIGHTS).is_file()
        or student_folders(folder)
    )


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint that ``folder`` stands for: the newest whole one of a run (with stages: of the last that is finished),
    or the folder itself when it is one. None for anything else.

    Raises CheckpointError when there is none to be read.
    """
    try:
        stages = read_stages(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if stages:
        finished = last_finished(folder)
        if finished is None:
            raise CheckpointError(
                f"{folder}: no stage is finished yet; give the folder of one, {folder / stages[0].folder}"
            )
        folder = finished
    if (folder / "ckpt").is_dir():
        newest = newest_valid(folder, advice=_what_is_left(step_folders(folder)))
        if newest is None:
            raise CheckpointError(f"{folder}: this run has no checkpoint yet")
        return newest
    if not (folder / "manifest.json").is_file():
        if not (folder / WEIGHTS).is_file() and (students := student_folders(folder)):
            raise CheckpointError(f"{folder}: holds several students; give the folder of one, {students[0]}")
        return None
    if problem := problem_with(folder):
        raise CheckpointError(f"{folder}: {problem}: {_what_is_left([folder])}")
    return folder


def _what_is_left(checkpoints: Sequence[Path]) -> str:
    """What to do when none of ``checkpoints`` is whole."""
    for folder in reversed(checkpoints):
        if problem_with(folder, only=(WEIGHTS, CONFIG)) is None:
            return f"{folder / WEIGHTS} is whole: give that file, it holds the backbone alone"
    return "copy it again, or give another checkpoint or export"


def _weights_in(folder: Path) -> Path:
    folder = checkpoint_in(folder) or folder
    if not folder.exists():
        raise WeightsError(f"{folder}: no such file or folder")
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder}: no {WEIGHTS} in it; give a run folder, a checkpoint folder or a weight file")
    return folder / WEIGHTS


def fill_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load whole ``tensors``, also into a sharded module; every name and shape must match in both directions."""
    check_fit(module, tensors, source)
    fill(module, tensors)


def check_fit(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """WeightsError unless every name and shape matches in both directions."""
    own = module.state_dict()
    required = without_aliases(module)
    missing, unexpected = sorted(set(required) - set(tensors)), sorted(set(tensors) - set(own))
    wrong = [
        f"{k} {tuple(v.shape)}, model {tuple(own[k].shape)}"
        for k, v in tensors.items()
        if k in own and v.shape != own[k].shape
    ]
    wrong += [
        f"{k} {str(v.dtype)[6:]}, model {str(own[k].dtype)[6:]}"
        for k, v in tensors.items()
        if k in own and v.is_floating_point() != own[k].is_floating_point()
    ]
    if missing or unexpected or wrong:
        flags = [f"{key}: {what}" for key, what in setting_differences(tensors, own)]
        raise WeightsError(
            f"{source}: does not fit the model: {len(missing)} missing {missing[:5]}, "
            f"{len(unexpected)} unexpected {unexpected[:5]}, {len(wrong)} of another shape or kind {wrong[:5]}"
            + "".join(f"; {flag}" for flag in flags[:5])
        )


def setting_differences(file: dict[str, Tensor], model: dict[str, Tensor]) -> list[tuple[str, str]]:
    """(key, what to set) for every setting of the architecture in which two backbones' tensors differ."""
    shapes = [{k.removeprefix("backbone."): tuple(v.shape) for k, v in tensors.items()} for tensors in (file, model)]
    if not all({"patch_embed.proj.weight", "downsample_layers.0.0.weight"} & set(s) for s in shapes):
        return []
    try:
        return list(differences(*(seen_settings(s) for s in shapes)))
    except ValueError:  # of tensors without a size nothing can be said
        return []


def load_model(model: nn.ModuleDict, path: Path) -> str:
    """Fill a backbone, or a backbone with heads, from anything ``read_source`` reads; strictly.

    Heads that the file has and ``model`` has not are left out. Returns a line that says what was loaded.
    """
    source = read_source(path)
    backbone = source.backbone | absent_tensors(source)
    tensors = {f"backbone.{k}": v for k, v in backbone.items()} | source.heads
    wanted = {k: v for k, v in tensors.items() if k.split(".", 1)[0] in model}
    fill_strictly(model, wanted, str(path))
    return f"{path} ({source.layout}): {len(wanted)} tensors into {', '.join(model)}"


def export_heads(source: Path, out: Path) -> None:
    """Write ``{"teacher": {backbone.*, dino_head.*, ibot_head.*}}``, DINOv3's teacher checkpoint, and read it back."""
    found = read_source(source)
    if not found.heads:
        raise WeightsError(f"{source}: has no heads")
    backbone = with_aliases(found.backbone | absent_tensors(found))
    teacher = {f"backbone.{k}": v for k, v in backbone.items()} | found.heads
    write_torch_file({"teacher": teacher}, out)
    again = read_model(out)
    written = {f"backbone.{k}": v for k, v in again.backbone.items()} | again.heads
    if written.keys() != teacher.keys() or not all(torch.equal(v, teacher[k]) for k, v in written.items()):
        raise WeightsError(f"{out.name}: does not hold what was written")
