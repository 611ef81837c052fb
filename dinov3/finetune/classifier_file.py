"""A classifier on disk: a folder that every command reads as a backbone, with the head beside it.

``backbone.safetensors`` and ``config.json`` (as in a checkpoint; adapters are merged), ``head.safetensors``,
``classifier.json``, and with LoRA ``adapters/`` in peft's layout.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dinov3.finetune.classifier import Classifier
from dinov3.finetune.errors import FinetuneError
from dinov3.models.backbone import Backbone
from dinov3.models.lora import adapters_of
from dinov3.system.files import TEMPORARY, flush
from dinov3.weights.adapter_files import CONFIG as ADAPTER_CONFIG
from dinov3.weights.adapter_files import has_names_in_peft, merged_backbone, write_adapters
from dinov3.weights.files import read_json, read_weights
from dinov3.weights.own import checkpoint_in, load_backbone, write_backbone
from dinov3.weights.provenance import Facts
from dinov3.weights.tensor_file import write_tensor_file

HEAD, ABOUT, ADAPTERS = "head.safetensors", "classifier.json", "adapters"
SHOWN = 3  # names of classes in a line
FORMAT, VERSION = "dinov3-classifier", 1


@dataclass(frozen=True)
class About:
    """What ``classifier.json`` says."""

    classes: int
    pool: str
    size: int  # px a side
    stain: bool
    label: str  # what was trained: head, LoRA, full, …
    weights: str  # where the backbone came from
    step: int
    names: list[str] | None = None  # of the classes
    temperature: float | None = None  # fitted on validation, at the end of a run
    trained_on: str | None = None  # identity of the training images' content; None in files of older programs
    validated_on: str | None = None  # of the images that selected the weights


def write_classifier(folder: Path, classifier: Classifier, about: About, facts: Facts) -> None:
    """Fill ``folder``, which exists and is not looked at before it is complete. ``facts``: of the backbone."""
    backbone = classifier.backbone
    if adapters := adapters_of(backbone):
        if has_names_in_peft(backbone, adapters):
            write_adapters(backbone, folder / ADAPTERS, base=about.weights)
        backbone = merged_backbone(backbone)
    write_backbone(folder, backbone, facts.preprocess, facts.provenance)
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.head.state_dict().items()}
    write_tensor_file(head, folder / HEAD, {"format": "pt"})
    described = {"format": FORMAT, "format_version": VERSION, **asdict(about)}
    (folder / ABOUT).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def place_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder ``path`` of what ``fill`` writes: whole or not at all, in place of what was there.

    Two folders cannot change places in one step: for a moment what was there has another name, under which it is found
    again (``standing``) when the process ends in that moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    displaced = displaced_from(path)
    if displaced.exists() and not path.exists():
        os.rename(displaced, path)
    for old in path.parent.glob(f"{TEMPORARY}*-{path.name}"):  # of a run that was killed
        shutil.rmtree(old, ignore_errors=True)
    fresh = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")
    fresh.mkdir()
    try:
        fill(fresh)
        for file in fresh.rglob("*"):
            flush(file)
        shutil.rmtree(displaced, ignore_errors=True)
        if path.exists():
            os.rename(path, displaced)
        os.rename(fresh, path)
        flush(path.parent)
        shutil.rmtree(displaced, ignore_errors=True)
    finally:
        for old in path.parent.glob(f"{TEMPORARY}*-{path.name}"):
            shutil.rmtree(old, ignore_errors=True)


def displaced_from(path: Path) -> Path:
    """Where the folder at ``path`` is while another takes its place."""
    return path.with_name(f".displaced-{path.name}")


def standing(path: Path) -> Path:
    """``path``, or what stood there when a process was killed before another folder could take its place."""
    displaced = displaced_from(path)
    return displaced if displaced.exists() and not path.exists() else path


def folder_of(path: Path) -> Path:
    """The folder of a classifier that ``path`` names: itself, a run's selected one, or its newest checkpoint."""
    found = _found(path)
    if found is None:
        raise FinetuneError(f"{path}: no {ABOUT} in it: give a run of `dinov3 finetune`, or its folder classifier")
    return found


def adapters_at(path: Path) -> Path:
    """The adapters at ``path``: in peft's two files, or of a classifier or a run of one."""
    found = None if (path / ADAPTER_CONFIG).is_file() else _found(path)
    return path if found is None or not (found / ADAPTERS).is_dir() else found / ADAPTERS


def is_classifier(path: Path) -> bool:
    """Whether there is a head at ``path``."""
    return _found(path) is not None


def _found(path: Path) -> Path | None:
    for folder in (standing(path), standing(path / "classifier")):
        if (folder / ABOUT).is_file():
            return folder
    found = checkpoint_in(path) if path.is_dir() else None
    return found if found is not None and (found / ABOUT).is_file() else None


def read_about(path: Path) -> About:
    """What the classifier at ``path`` is. FinetuneError for a file that says something else."""
    folder = folder_of(path)
    return checked_about(read_json(folder / ABOUT), str(folder / ABOUT))


def checked_about(content: Mapping[str, Any], source: str) -> About:
    """Every field of the right type; unknown ones are of a newer program and refused."""
    if content.get("format") != FORMAT or content.get("format_version") != VERSION:
        raise FinetuneError(f"{source}: not a classifier of version {VERSION}")
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("classes", "size", "step"), (int,)),
        **dict.fromkeys(("pool", "label", "weights"), (str,)),
        **dict.fromkeys(("trained_on", "validated_on"), (str, type(None))),
        **{"stain": (bool,), "names": (list, type(None)), "temperature": (float, int, type(None))},
    }
    found = {"trained_on": None, "validated_on": None} | {
        k: v for k, v in content.items() if k not in ("format", "format_version")
    }
    wrong = sorted(set(found) ^ set(kinds)) or sorted(k for k, v in found.items() if not isinstance(v, kinds[k]))
    if wrong or found["pool"] not in ("cls", "mean", "cls+mean") or found["classes"] < 2 or found["size"] < 1:
        raise FinetuneError(f"{source}: damaged, or of a newer program ({', '.join(wrong) or 'values'})")
    return About(**found)


def read_head_for(classifier: Classifier, path: Path, names: list[str] | None) -> list[str]:
    """Fill the head from the classifier at ``path``, its rows in the order of the classes ``names``; what there is to say.

    FinetuneError for a head of other classes.
    """
    read_head(classifier, path)
    known = read_about(path).names
    if known == names:
        return []
    if known is None or names is None:
        shown = ", ".join(f"{place} is {name!r}" for place, name in enumerate((names or known or [])[:SHOWN]))
        return [
            f"           its classes or those of the images are numbers: taken in the order of the names ({shown}, …)"
        ]
    if other := sorted(set(known) ^ set(names)):
        raise FinetuneError(
            f"{folder_of(path) / HEAD}: a head of other classes than the images have ({', '.join(map(repr, other[:SHOWN]))} "
            "are in one of the two alone): leave out model.head, or give images of its classes"
        )
    order = torch.tensor([known.index(name) for name in names])
    with torch.no_grad():
        for tensor in classifier.head.parameters():
            tensor.copy_(tensor[order])
    return ["           its rows are put in the order of the classes here"]


def read_head(classifier: Classifier, path: Path) -> None:
    """Fill the head from the classifier at ``path``. FinetuneError unless names and shapes are the same."""
    folder = folder_of(path)
    tensors, own = read_weights(folder / HEAD).tensors, classifier.head.state_dict()
    there = {name: list(tensor.shape) for name, tensor in tensors.items()}
    here = {name: list(tensor.shape) for name, tensor in own.items()}
    if there != here:
        raise FinetuneError(
            f"{folder / HEAD}: {there} does not fit {here}: it is of another backbone, pool or number of classes"
        )
    classifier.head.load_state_dict(tensors)


def load_classifier(path: Path, backbone: Path | None = None) -> tuple[Classifier, About]:
    """The classifier at ``path`` in eval mode on the CPU; ``backbone``: weights to put in the place of its own, such as a
    compressed copy. Raises FinetuneError, WeightsError or CheckpointError."""
    folder = folder_of(path)
    about = read_about(folder)
    loaded: Backbone = load_backbone(backbone or folder)
    classifier = Classifier(loaded, about.classes, about.pool)
    read_head(classifier, folder)
    return classifier.eval(), about
