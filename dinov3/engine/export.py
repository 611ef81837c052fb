"""The EMA backbone out of a run, and back in: our own folder, and the official ``.pth`` layouts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dinov3.distributed.shard import fill
from dinov3.engine.checkpoint import CheckpointError, flush, newest_valid, read_tensors
from dinov3.engine.manifest import problem_with
from dinov3.models.build import backbone_from_description, describe_backbone, matching_preset
from dinov3.models.presets import PRESETS
from utility.weights import WeightsError, backbone_part, model_part, read_weights

WEIGHTS, CONFIG = "backbone.safetensors", "config.json"
# Channel statistics of the two data sets the released models were trained on.
PHOTOGRAPHS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SATELLITE = {"mean": [0.430, 0.411, 0.296], "std": [0.213, 0.156, 0.143]}


def description(backbone: nn.Module, preprocess: dict[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says: everything needed to build the backbone again and to feed it."""
    return {"format": "dinov3-backbone", "format_version": 1, **describe_backbone(backbone), "preprocess": preprocess}


def write_backbone(folder: Path, backbone: nn.Module, preprocess: dict[str, Any]) -> None:
    """Write ``backbone.safetensors`` and ``config.json`` into ``folder``."""
    state = {k: v.detach().cpu().contiguous() for k, v in _without_aliases(backbone).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(description(backbone, preprocess), indent=1))


def _without_aliases(module: nn.Module) -> dict[str, Tensor]:
    """State dict with one name a tensor (ConvNeXt's ``norms.3`` is its ``norm``); safetensors refuses shared memory."""
    kept: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    return {k: v for k, v in state.items() if kept.setdefault(id(v), k) == k}


def read_description(path: Path) -> dict[str, Any]:
    """A ``config.json`` written by ``write_backbone``."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != "dinov3-backbone" or "class" not in content:
        raise WeightsError(f"{path}: not the description of a dinov3 backbone")
    if content.get("format_version") != 1:
        raise WeightsError(f"{path}: format version {content.get('format_version')!r}, this program reads 1")
    return content


def load_backbone(path: str | Path, *, preset: str | None = None) -> nn.Module:
    """The backbone stored at ``path``, in eval mode, on the CPU.

    ``path`` is a run folder (its newest whole checkpoint), a checkpoint folder, a folder or ``.safetensors`` file
    with ``config.json`` beside it, or an official ``.pth``. A ``.pth`` says nothing about its architecture: it is
    taken from ``FILE.json`` beside it, from ``preset`` (a released model's name), or recognised by its names and shapes.

    Its attribute ``preprocess`` says how to feed it: ``mean`` and ``std`` of each channel, and the training ``size`` in
    pixels when the file knows it.

    Raises WeightsError or CheckpointError when a name is missing or left over, when a shape differs, or when the
    architecture cannot be told.
    """
    path = Path(path)
    if preset is not None and preset not in PRESETS:
        raise WeightsError(f"preset {preset!r} is unknown: choose from {sorted(PRESETS)}")
    if path.is_dir():
        path = _weights_in(path)
    tensors = backbone_part(read_weights(path))
    sidecar = path.with_name(CONFIG) if path.name == WEIGHTS else path.with_suffix(".json")
    if preset is not None:
        described: dict[str, Any] = {"preset": preset}
    elif sidecar.is_file():
        described = read_description(sidecar)
    else:
        found = matching_preset({k: tuple(v.shape) for k, v in tensors.items()})
        if found is None:
            raise WeightsError(
                f"{path}: cannot tell the architecture: no {sidecar.name} beside it and no released model has these "
                "names and shapes; pass preset=… (see `dinov3 models`)"
            )
        described = {"preset": found}
    backbone = backbone_from_description(described)
    fill_strictly(backbone, tensors, str(path))
    statistics = SATELLITE if str(described.get("preset")).endswith("SAT493M") else PHOTOGRAPHS
    object.__setattr__(backbone, "preprocess", described.get("preprocess", statistics))
    return backbone.eval()


def _weights_in(folder: Path) -> Path:
    if (folder / "ckpt").is_dir():
        newest = newest_valid(folder)
        if newest is None:
            raise CheckpointError(f"{folder}: this run has no checkpoint yet")
        folder = newest
    elif (folder / "manifest.json").is_file() and (problem := problem_with(folder)):
        raise CheckpointError(f"{folder}: {problem}")
    if not folder.exists():
        raise WeightsError(f"{folder}: no such file or folder")
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder}: no {WEIGHTS} in it; give a run folder, a checkpoint folder or a weight file")
    return folder / WEIGHTS


def fill_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load whole ``tensors``, also into a sharded module; every name and shape must match in both directions."""
    own = module.state_dict()
    required = _without_aliases(module)
    missing, unexpected = sorted(set(required) - set(tensors)), sorted(set(tensors) - set(own))
    wrong = [
        f"{k} {tuple(v.shape)}, model {tuple(own[k].shape)}"
        for k, v in tensors.items()
        if k in own and v.shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        raise WeightsError(
            f"{source}: does not fit the model: {len(missing)} missing {missing[:5]}, "
            f"{len(unexpected)} unexpected {unexpected[:5]}, {len(wrong)} of another shape {wrong[:5]}"
        )
    fill(module, tensors)


def load_model(model: nn.ModuleDict, path: Path) -> str:
    """Fill a backbone, or a backbone with heads, from a run folder or an official ``.pth``; strictly.

    Heads that the file has and ``model`` has not are left out. Returns a line that says what was loaded.
    """
    if path.is_dir():
        tensors = read_tensors(_weights_in(path).parent / "state", prefix="model_ema.")
    else:
        tensors = model_part(read_weights(path))
    wanted = {k: v for k, v in tensors.items() if k.split(".", 1)[0] in model}
    fill_strictly(model, wanted, str(path))
    return f"{path}: {len(wanted)} tensors into {', '.join(model)}"


def export_official(run: Path, out: Path, *, heads: bool) -> Path:
    """Write the official layout from a run's newest checkpoint: a flat backbone, or ``{"teacher": …}`` with heads.

    ``OUT.json`` beside it keeps the architecture. Written to a temporary name first, so a reader never sees half a file.
    """
    sidecar = out.with_suffix(".json")
    if out.suffix not in (".pth", ".pt") or out.is_dir():
        raise WeightsError(f"{out}: give a file name that ends in .pth or .pt")
    if sidecar.exists():
        read_description(sidecar)  # somebody else's file is not overwritten
    weights = _weights_in(run)
    if heads:
        stored = read_tensors(weights.parent / "state", prefix="model_ema.")
        content: dict[str, Any] = {"teacher": stored}
    else:
        content = dict(load_backbone(weights.parent).state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = {path: path.with_name(f"{path.name}.tmp") for path in (sidecar, out)}
    try:
        torch.save(content, temporary[out])
        temporary[sidecar].write_text(weights.with_name(CONFIG).read_text())
        for path, written in temporary.items():
            flush(written)
            os.replace(written, path)
    except RuntimeError as error:  # what torch.save raises for a file it cannot open
        raise WeightsError(f"{out}: cannot be written: {error}") from error
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)
    return out
