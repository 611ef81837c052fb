"""From a config and where a run starts to a classifier ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from dinov3.config.errors import ConfigError
from dinov3.finetune.classifier import Classifier, choose_what_trains, label_of
from dinov3.finetune.classifier_file import About, adapters_at, read_head_for
from dinov3.finetune.config import ClassifyConfig
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.runs.manifest import read_train_state
from dinov3.runs.start import Start
from dinov3.system.paths import expanded
from dinov3.weights.adapter_files import read_adapters, told_of_adapters
from dinov3.weights.model_card import FINE_TUNED, provenance_of
from dinov3.weights.own import load_backbone, read_source
from dinov3.weights.provenance import Facts

DEFAULT_SIZE = 224  # px: what released models are evaluated at


@dataclass
class Built:
    """A classifier with what its files say of it."""

    classifier: Classifier
    cfg: ClassifyConfig
    names: list[str] | None
    size: int
    facts: Facts
    pretrained: dict[str, Any] | None  # None: training of the backbone began with random weights
    trained_on: str  # identity of the training images' content
    validated_on: str | None  # of the images that select the weights
    lines: list[str] = field(default_factory=list)

    def about(self, step: int) -> About:
        model = self.cfg.model
        classes = self.classifier.head.out_features
        told = (self.cfg.augment.stain, label_of(model), model.weights, step, self.names)
        return About(classes, model.pool, self.size, *told, trained_on=self.trained_on, validated_on=self.validated_on)


def build_classifier(
    cfg: ClassifyConfig,
    start: Start,
    classes: int,
    names: list[str] | None,
    *,
    trained_on: str,
    validated_on: str | None,
) -> Built:
    """On the CPU. ``trained_on``, ``validated_on``: identities of the images. A run that goes on takes the backbone from its own checkpoint: the first weights may be gone.

    Raises ConfigError, FinetuneError, WeightsError or CheckpointError.
    """
    model = cfg.model
    source = start.found or start.beginning or Path(model.weights)
    own = start.found is not None or start.beginning is not None
    backbone = load_backbone(source, preset=None if own else model.preset)
    refuse_int8(backbone, cfg)
    size, preprocess = _size(backbone, cfg)
    classifier = Classifier(backbone, classes, model.pool)
    classifier.init_head(torch.Generator().manual_seed(cfg.train.seed))
    lines = [f"start      {source}"]
    if start.found is None and (head := start.beginning or (expanded(model.head) if model.head else None)):
        lines += [f"head       {head}", *read_head_for(classifier, head, names)]
    try:
        if model.adapters:  # also of a run that goes on: their shapes are the file's
            folder = adapters_at(expanded(model.adapters))
            read_adapters(backbone, folder)
            lines.append(f"LoRA       {folder}: {told_of_adapters(folder)}; weights here: {model.weights}")
        lines += choose_what_trains(classifier, model, cfg.lora, cfg.train.seed)
    except ValueError as error:
        raise ConfigError("", "lora.targets", str(error).removeprefix("lora.targets").lstrip(": ")) from error
    told = provenance_of(source, cast(Any, backbone).described, [f"{FINE_TUNED}: {label_of(model)}, {classes} classes"])
    return Built(
        classifier,
        cfg,
        names,
        size,
        Facts(preprocess, told),
        _pretrained(source, start),
        trained_on,
        validated_on,
        lines,
    )


def refuse_int8(backbone: Backbone, cfg: ClassifyConfig) -> None:
    """FinetuneError for whole numbers that gradients cannot move."""
    if cfg.model.method != "head_only" and "int8" in describe_backbone(backbone)["config"]:
        raise ConfigError(
            "",
            "model.weights",
            "its matrices are int8, which do not train: use model.method=head_only, or quantise later",
        )


def _size(backbone: Backbone, cfg: ClassifyConfig) -> tuple[int, dict[str, Any]]:
    """(px a side, how to feed the backbone)."""
    statistics = cast(Any, backbone).preprocess
    size = cfg.model.size or int(statistics.get("size", DEFAULT_SIZE))
    if size % backbone.stride:
        low = max(size // backbone.stride, 1) * backbone.stride
        raise ConfigError(
            "",
            "model.size",
            f"{size} is not a multiple of the patch of {backbone.stride} px: use {low} or {low + backbone.stride}",
        )
    preprocess = {"mean": list(statistics["mean"]), "std": list(statistics["std"]), "size": size}
    if (white := cfg.data.value_range) is not None:
        preprocess["value_range"] = white
    return size, preprocess


def _pretrained(source: Path, start: Start) -> dict[str, Any] | None:
    """Which weights the backbone began with, as a checkpoint says it."""
    state = start.found or start.beginning
    if state is not None:
        found: dict[str, Any] | None = read_train_state(state).get("pretrained")
        return found
    read = read_source(source, heads=False)
    return {"path": str(source), "layout": read.layout, "sha256": read.raw.sha256()}
