"""The compressed model and the one it was made from: loaded, checked against each other, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.compress.recovery.config import RecoverConfig
from dinov3.compress.recovery.loss import recovery_loss
from dinov3.config.errors import ConfigError
from dinov3.contracts import Features
from dinov3.engine.precision import Precision
from dinov3.features.extract import preprocess_of
from dinov3.features.preprocess import Preprocess
from dinov3.finetune.headed.building import check_multiple, load_start
from dinov3.finetune.headed.config import BackboneConfig
from dinov3.finetune.headed.groups import freeze
from dinov3.models.backbone import Backbone
from dinov3.models.build import describe_backbone
from dinov3.runs.manifest import read_train_state
from dinov3.runs.start import Start
from dinov3.system.paths import expanded
from dinov3.weights.model_card import provenance_of
from dinov3.weights.own import load_backbone, read_source
from dinov3.weights.provenance import Facts

MEASURES = ("cls_cosine", "patch_cosine", "distance")  # of tokens, in evaluation.jsonl and results.json


@dataclass
class Pair:
    """Both models on the CPU in eval mode; ``student`` trains but for its mask token, ``teacher`` does not."""

    student: Backbone
    teacher: Backbone
    size: int  # px a side of the images both see
    facts: Facts  # what the student's file says
    pretrained: dict[str, Any] | None
    teacher_sha256: str
    lines: list[str]

    @property
    def preprocess(self) -> Preprocess:
        """How both are fed."""
        return preprocess_of(self.student, size=self.size)


def load_pair(cfg: RecoverConfig, start: Start) -> Pair:
    """A run that goes on takes the student from its own checkpoint; the teacher is read again, and is the same.

    Raises ConfigError for two models that have nothing to do with each other, WeightsError or CheckpointError.
    """
    loaded = load_start(BackboneConfig(cfg.model.weights, None, frozen=True), start)
    student, path = loaded.backbone, expanded(cfg.model.teacher)
    if "int8" in describe_backbone(student)["config"]:
        raise ConfigError(
            "", "model.weights", "its matrices are int8, which do not train: recover first, quantise then"
        )
    teacher = load_backbone(path, preset=cfg.model.preset)
    _check_pair(student, teacher)
    sha256 = read_source(path, heads=False).raw.sha256()
    if start.found is not None and read_train_state(start.found).get("teacher") != sha256:
        raise ConfigError("", "model.teacher", f"{path} holds other weights than when this run began: put them back")
    statistics = cast(Any, student).preprocess
    size = cfg.model.size or int(statistics.get("size", 224))
    check_multiple("model.size", size, student.stride)
    freeze(student, frozen=False)
    note = f"recovered: trained towards the features of {Path(path).name}"
    told = provenance_of(loaded.source, cast(Any, student).described, [note])
    facts = Facts({**statistics, "size": size}, told)
    lines = [*loaded.lines, f"teacher    {path}"]
    frozen = teacher.eval().requires_grad_(False)
    return Pair(student.eval(), frozen, size, facts, loaded.pretrained, sha256, lines)


def _check_pair(student: Backbone, teacher: Backbone) -> None:
    """ConfigError unless tokens of the same image can be compared one by one."""
    shapes = {
        what: (getattr(student, name), getattr(teacher, name))
        for name, what in {"embed_dim": "width", "stride": "patch in px", "in_chans": "channels of images"}.items()
    }
    fed = [tuple(tuple(cast(Any, model).preprocess[key]) for key in ("mean", "std")) for model in (student, teacher)]
    wrong = [f"its {what} is {b}, that of model.weights {a}" for what, (a, b) in shapes.items() if a != b]
    if not wrong and fed[0] != fed[1]:
        wrong = [f"its images are normalised by {fed[1]}, those of model.weights by {fed[0]}"]
    counts = [sum(p.numel() for p in model.parameters()) for model in (student, teacher)]
    if not wrong and counts[1] < counts[0]:
        wrong = [f"it has {counts[1]:,} parameters, model.weights {counts[0]:,}: are the two exchanged?"]
    if not wrong and counts[1] == counts[0]:
        raise ConfigError(
            "", "model.weights", "is as large as model.teacher: nothing was removed that could be recovered"
        )
    if wrong:
        raise ConfigError("", "model.teacher", f"{'; '.join(wrong)}: give the model it was compressed from")


@torch.no_grad()
def compared(student: Backbone, teacher: Backbone, batches: Sequence[Tensor], precision: Precision) -> dict[str, float]:
    """Means over images and tokens of ``MEASURES``: cosines of class tokens and patches, and the loss with weights 1.

    ``batches``: images [B, C, H, W] on the CPU. Both models are in eval mode. Every process calls this.
    """
    rows: list[tuple[int, Tensor]] = []
    for batch in batches:
        images = batch.to(precision.device)
        with precision.autocast():
            ours, theirs = (cast(Features, model(images, is_training=True)) for model in (student, teacher))
        cosines = [
            F.cosine_similarity(a.double(), b.double(), dim=-1).mean()
            for a, b in ((ours.cls, theirs.cls), (ours.patches, theirs.patches))
        ]
        rows.append((len(batch), torch.stack([*cosines, recovery_loss(ours, theirs).double()])))
    total = sum(n for n, _ in rows)
    means = torch.stack([n / total * values for n, values in rows]).sum(0)
    return {name: float(value) for name, value in zip(MEASURES, means, strict=True)}
