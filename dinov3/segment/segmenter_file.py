"""A segmenter on disk: a folder that every command reads as a backbone, with the head beside it.

``backbone.safetensors`` and ``config.json`` (as in a checkpoint), ``head.safetensors``, ``segmenter.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinov3.finetune.classifier_file import HEAD
from dinov3.finetune.errors import FinetuneError
from dinov3.segment.segmenter import HEADS, HeadShape, Segmenter, build_head
from dinov3.weights.description import BACKBONE
from dinov3.weights.files import CONFIG, read_json, read_weights
from dinov3.weights.own import checkpoint_in, description, fill_strictly, load_backbone, without_aliases
from dinov3.weights.provenance import Facts
from dinov3.weights.tensor_file import write_tensor_file

ABOUT, FOLDER = "segmenter.json", "segmenter"
FORMAT, VERSION = "dinov3-segmenter", 1


@dataclass(frozen=True)
class About:
    """What ``segmenter.json`` says."""

    classes: int
    head: str
    frozen: bool
    queries: int
    query_blocks: int
    crop: int  # px a side of a window
    stride: int  # px from one window to the next
    short_side: int  # px an image is resized to first; 0: its own size
    ignore: int
    reduce_zero: bool
    weights: str  # where the backbone came from
    step: int

    @property
    def shape(self) -> HeadShape:
        return HeadShape(self.classes, self.head, self.frozen, self.queries, self.query_blocks)


def write_segmenter(folder: Path, segmenter: Segmenter, about: About, facts: Facts) -> None:
    """Fill ``folder``, which exists and is not looked at before it is complete. ``facts``: of the backbone."""
    state = {k: v.detach().cpu().contiguous() for k, v in without_aliases(segmenter.backbone).items()}
    write_tensor_file(state, folder / BACKBONE, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(description(segmenter.backbone, facts), indent=1), encoding="utf-8")
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in segmenter.head.state_dict().items()}
    write_tensor_file(head, folder / HEAD, {"format": "pt"})
    described = {"format": FORMAT, "format_version": VERSION, **asdict(about)}
    (folder / ABOUT).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def folder_of(path: Path) -> Path:
    """The folder of a segmenter that ``path`` names: itself, a run's selected one, or its newest checkpoint."""
    for folder in (path, path / FOLDER):
        if (folder / ABOUT).is_file():
            return folder
    found = checkpoint_in(path) if path.is_dir() else None
    if found is None or not (found / ABOUT).is_file():
        raise FinetuneError(f"{path}: no {ABOUT} in it: give a run of `dinov3 finetune` with task: segment")
    return found


def read_about(folder: Path) -> About:
    """What the segmenter in ``folder`` is. FinetuneError for a file that says something else."""
    content, source = read_json(folder / ABOUT), str(folder / ABOUT)
    if content.get("format") != FORMAT or content.get("format_version") != VERSION:
        raise FinetuneError(f"{source}: not a segmenter of version {VERSION}")
    return checked_about({k: v for k, v in content.items() if k not in ("format", "format_version")}, source)


def checked_about(found: Mapping[str, Any], source: str) -> About:
    """Every field of the right type; unknown ones are of a newer program and refused."""
    least = {
        "classes": 2,
        "queries": 1,
        "query_blocks": 1,
        "crop": 1,
        "stride": 1,
        "short_side": 0,
        "ignore": 0,
        "step": 0,
    }
    kinds: dict[str, type[Any]] = {
        **dict.fromkeys(least, int),
        "head": str,
        "weights": str,
        "frozen": bool,
        "reduce_zero": bool,
    }
    wrong = sorted(set(found) ^ set(kinds)) or sorted(k for k, v in found.items() if type(v) is not kinds[k])
    wrong = wrong or sorted(k for k, low in least.items() if found[k] < low)
    if wrong or found["head"] not in HEADS or found["stride"] > found["crop"]:
        raise FinetuneError(f"{source}: damaged, or of a newer program ({', '.join(wrong) or 'values'})")
    return About(**found)


def read_head(segmenter: Segmenter, path: Path) -> None:
    """Fill the head from the segmenter at ``path``. WeightsError unless names and shapes are the same."""
    file = folder_of(path) / HEAD
    fill_strictly(segmenter.head, read_weights(file).tensors, str(file))


def load_segmenter(path: Path, backbone: Path | None = None) -> tuple[Segmenter, About]:
    """The segmenter at ``path`` in eval mode on the CPU; ``backbone``: weights to put in the place of its own, such as a
    compressed copy. Raises FinetuneError, WeightsError or CheckpointError."""
    folder = folder_of(path)
    about = read_about(folder)
    loaded = load_backbone(backbone or folder)
    segmenter = Segmenter(loaded, build_head(about.shape, loaded), about.shape)
    read_head(segmenter, folder)
    return segmenter.eval(), about
