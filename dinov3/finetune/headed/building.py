"""The backbone that a head is put on: loaded, checked, and what the files will say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, cast

import torch

from dinov3.config.blocks.data import DataConfig
from dinov3.config.errors import ConfigError
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.headed.config import BackboneConfig, Headed
from dinov3.finetune.headed.product import A, M, Product
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.runs.manifest import read_train_state
from dinov3.runs.start import Start
from dinov3.weights.model_card import FINE_TUNED, provenance_of
from dinov3.weights.own import load_backbone, read_source
from dinov3.weights.provenance import Facts


@dataclass
class Built(Generic[M, A]):
    """A model ready to train, with what its files say of it."""

    product: Product[M, A]
    model: M
    about: A  # before the first step
    facts: Facts
    pretrained: dict[str, Any] | None
    lines: list[str]

    def writes(self, model: M, step: int) -> Callable[[Path], None]:
        """What fills a folder with ``model``, as it is after so many steps."""
        about = replace(cast(Any, self.about), step=step)
        return lambda folder: self.product.write(folder, model, about, self.facts)


class Loaded(NamedTuple):
    """A backbone on the CPU."""

    backbone: Backbone
    source: Path
    head: Path | None  # another run, whose head is where this one begins
    pretrained: dict[str, Any] | None  # which weights the backbone began with, as a checkpoint says it

    @property
    def lines(self) -> list[str]:
        """For the start-up block."""
        return [f"start      {self.source}", *([f"head       {self.head}"] if self.head is not None else [])]

    def facts(self, what: str, size: int, data: DataConfig) -> Facts:
        """What the backbone's file says: how it is fed, and that it was fine-tuned as ``what`` on views of ``size`` px."""
        statistics = cast(Any, self.backbone).preprocess
        preprocess = {"mean": list(statistics["mean"]), "std": list(statistics["std"]), "size": size}
        if (white := data.value_range) is not None:
            preprocess["value_range"] = white
        told = provenance_of(self.source, cast(Any, self.backbone).described, [f"{FINE_TUNED}: {what}"])
        return Facts(preprocess, told)

    def built(self, product: Product[M, A], model: M, about: A, cfg: Headed, facts: Facts) -> Built[M, A]:
        """``model`` with its head as it begins. Raises WeightsError when that of another run does not fit."""
        cast(Any, model.head).init_weights(torch.Generator().manual_seed(cfg.train.seed))
        if self.head is not None:
            product.read_head(model.head, self.head)
            told = product.read_about(product.folder_of(self.head))
            if (classes := getattr(told, "classes", None)) != getattr(about, "classes", None):
                raise FinetuneError(
                    f"{self.head}: a head of the classes {classes}, the images have others or another order"
                )
        return Built(product, model, about, facts, self.pretrained, self.lines)


def load_start(model: BackboneConfig, start: Start) -> Loaded:
    """A run that goes on takes the backbone from its own checkpoint: the first weights may be gone.

    Raises ConfigError, WeightsError or CheckpointError.
    """
    state = start.found or start.beginning
    source = state or Path(model.weights)
    backbone = load_backbone(source, preset=None if state else model.preset)
    if not model.frozen and "int8" in describe_backbone(backbone)["config"]:
        raise ConfigError("", "model.weights", "its matrices are int8, which do not train: use model.frozen=true")
    return Loaded(backbone, source, start.beginning if start.found is None else None, _pretrained(source, state))


def check_multiple(key: str, side: int, patch: int) -> None:
    """ConfigError unless views of ``side`` px are whole patches."""
    if side % patch:
        low = max(side // patch, 1) * patch
        raise ConfigError("", key, f"{side} is not a multiple of the patch of {patch} px: use {low} or {low + patch}")


def _pretrained(source: Path, state: Path | None) -> dict[str, Any] | None:
    if state is not None:
        found: dict[str, Any] | None = read_train_state(state).get("pretrained")
        return found
    read = read_source(source, heads=False)
    return {"path": str(source), "layout": read.layout, "sha256": read.raw.sha256()}
