"""``dit.safetensors``: a trained transformer with what it needs to make images: statistics, sizes, which text and latents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinov3.generate.errors import GenerateError
from dinov3.generate.training.statistics import Normaliser
from dinov3.models.diffusion.transformer import DiffusionTransformer, DitSpec
from dinov3.system.json_file import parse_object
from dinov3.weights.own import checkpoint_in
from dinov3.weights.tensor_file import write_tensor_file

FILE, FORMAT, VERSION = "dit.safetensors", "dinov3-dit", 1
MODEL, STATISTICS = "model.", "statistics."


@dataclass(frozen=True)
class TrainedDit:
    """``facts``: the key of the shards it was trained on, and ``shift_base``."""

    model: DiffusionTransformer
    normaliser: Normaliser
    facts: dict[str, Any]


def write_dit(path: Path, tensors: Mapping[str, Tensor], spec: DitSpec, facts: Mapping[str, Any]) -> None:
    """``tensors``: those of the model below MODEL, those of the normaliser below STATISTICS."""
    told = {"format": FORMAT, "version": VERSION, "spec": asdict(spec), "facts": dict(facts)}
    write_tensor_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, {FORMAT: json.dumps(told)}
    )


def dit_file(path: Path) -> Path:
    """The file that ``path`` stands for: a run, a checkpoint, a folder with the file, or itself. Raises GenerateError."""
    found = path
    if path.is_dir():
        found = (checkpoint_in(path) or path) / FILE
    if not found.is_file():
        raise GenerateError(f"{path}: no {FILE}: not a run of `dinov3 dit train`, nor a checkpoint of one")
    return found


@dataclass(frozen=True)
class Stored:
    """A file's content."""

    path: Path
    spec: DitSpec
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below a prefix, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def read_dit(path: Path) -> Stored:
    """What ``write_dit`` wrote. GenerateError in one line for anything else."""
    file = dit_file(path)
    try:
        with safe_open(str(file), "pt") as opened:
            told = parse_object((opened.metadata() or {})[FORMAT])
            if told["version"] != VERSION:
                raise GenerateError(f"{file}: version {told['version']!r}, this program reads {VERSION}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        return Stored(file, DitSpec(**told["spec"]), dict(told["facts"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise GenerateError(f"{file}: damaged, or not a diffusion transformer ({type(error).__name__})") from error


def load_dit(path: Path, device: torch.device) -> TrainedDit:
    """The averaged weights of a run, in eval mode on ``device``. Raises GenerateError."""
    stored = read_dit(path)
    model = DiffusionTransformer(stored.spec)
    statistics = stored.part(STATISTICS)
    sizes = {name.removesuffix("_mean"): len(t) for name, t in statistics.items() if name.endswith("_mean")}
    normaliser = Normaliser(sizes)
    try:
        model.load_state_dict(stored.part(MODEL))
        normaliser.load_state_dict(statistics)
    except RuntimeError as error:
        raise GenerateError(f"{stored.path}: its tensors are not those of the model it names") from error
    return TrainedDit(model.to(device).eval(), normaliser.to(device), stored.facts)
