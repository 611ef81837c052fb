"""A backbone with its head on disk: a folder that every command reads as a backbone, with the head beside it.

``backbone.safetensors`` and ``config.json`` (as in a checkpoint), ``head.safetensors``, and a JSON that describes the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from torch import nn

from dinov3.finetune.classifier_file import HEAD, standing
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.headed.model import HeadedModel
from dinov3.models.backbone import Backbone
from dinov3.system.json_file import JsonError, as_form
from dinov3.weights.files import read_json, read_weights
from dinov3.weights.own import checkpoint_in, fill_strictly, load_backbone, write_backbone
from dinov3.weights.provenance import Facts
from dinov3.weights.tensor_file import write_tensor_file

A = TypeVar("A")
M = TypeVar("M", bound=HeadedModel)
FORMS: dict[Any, Any] = {int: int, float: float, bool: bool, str: str, list[str]: [str], list[int]: [int]}
HEADER = ("format", "format_version")


@dataclass(frozen=True)
class Product(Generic[M, A]):
    """One kind of such folder. ``about``: a dataclass of the types in FORMS; whole numbers are 0 or more."""

    file: str  # that describes the head, such as segmenter.json
    folder: str  # in a run, of the selected weights
    format: str
    task: str  # of the config
    about: type[A]
    wrong: Callable[[A], list[str]]  # fields whose values cannot be
    made: Callable[[Backbone, A], M]  # with a head that has yet to be filled
    later: Mapping[str, Any] = field(default_factory=dict)  # fields that older files lack, with what they meant
    version: int = 1

    @property
    def name(self) -> str:
        return self.folder

    def write(self, folder: Path, model: M, about: Any, facts: Facts) -> None:
        """Fill ``folder``, which exists and is not looked at before it is complete. ``facts``: of the backbone."""
        write_backbone(folder, model.backbone, facts.preprocess, facts.provenance)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
        write_tensor_file(tensors, folder / HEAD, {"format": "pt"})
        described = {"format": self.format, "format_version": self.version, **asdict(about)}
        (folder / self.file).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    def folder_of(self, path: Path) -> Path:
        """The folder that ``path`` names: itself, a run's selected one, or its newest checkpoint. Raises FinetuneError."""
        for folder in (standing(path), standing(path / self.folder)):
            if (folder / self.file).is_file():
                return folder
        found = checkpoint_in(path) if path.is_dir() else None
        if found is None or not (found / self.file).is_file():
            raise FinetuneError(f"{path}: no {self.file} in it: give a run of `dinov3 finetune` with task: {self.task}")
        return found

    def read_about(self, folder: Path) -> A:
        """What the head in ``folder`` is. FinetuneError for a file that says something else."""
        source = folder / self.file
        content = read_json(source)
        if content.get("format") != self.format or content.get("format_version") != self.version:
            raise FinetuneError(f"{source}: not a {self.name} of version {self.version}")
        found = {**self.later, **{k: v for k, v in content.items() if k not in HEADER}}
        hints = get_type_hints(self.about)
        try:
            if unknown := sorted(set(found) - set(hints)):
                raise JsonError(", ".join(unknown))
            as_form(found, {name: FORMS[hint] for name, hint in hints.items()})
            about = self.about(**found)
            if wrong := self.wrong(about):
                raise JsonError(", ".join(wrong))
        except JsonError as error:
            raise FinetuneError(f"{source}: damaged, or of a newer program ({error})") from error
        return about

    def read_head(self, head: nn.Module, path: Path) -> None:
        """Fill ``head`` from the folder at ``path``. WeightsError unless names and shapes are the same."""
        file = self.folder_of(path) / HEAD
        fill_strictly(head, read_weights(file).tensors, str(file))

    def load(self, path: Path, backbone: Path | None = None) -> tuple[M, A]:
        """What lies at ``path`` in eval mode on the CPU; ``backbone``: weights to put in the place of its own, such as a
        compressed copy. Raises FinetuneError, WeightsError or CheckpointError."""
        folder = self.folder_of(path)
        about = self.read_about(folder)
        model = self.made(load_backbone(backbone or folder), about)
        self.read_head(model.head, folder)
        return model.eval(), about
