"""What trains of a backbone with a head, and at which rate."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dinov3.engine.optim import EMBEDDINGS, ParamGroup, parameter_rows
from dinov3.finetune.headed.config import HeadOptimConfig
from dinov3.models.backbone import Backbone


def freeze(backbone: Backbone, *, frozen: bool) -> None:
    """Which parameters of the backbone train: none, or all but the mask token."""
    backbone.requires_grad_(not frozen)
    for name, parameter in backbone.named_parameters():
        if name.rpartition(".")[2] == "mask_token":
            parameter.requires_grad_(False)  # no patch is masked here: decay alone would move it


def groups_of(trained: nn.Module, optim: HeadOptimConfig) -> list[ParamGroup]:
    """Every trainable parameter once. Matrices decay; biases, norms, LayerScale, tokens and queries do not."""
    groups: dict[tuple[float, float], ParamGroup] = {}
    for name, parameter, lr, wd in _rows(trained, optim):
        group = groups.setdefault((lr, wd), ParamGroup(lr, wd, False))
        group.names.append(name)
        group.params.append(parameter)
    return list(groups.values())


def _rows(trained: nn.Module, optim: HeadOptimConfig) -> Iterator[tuple[str, nn.Parameter, float, float]]:
    rows = parameter_rows(
        trained, lr_decay_rate=optim.layerwise_decay, patch_embed_lr_mult=1.0, dino_head_wd_multiplier=1.0
    )
    for row in rows:
        segments = row.name.split(".")
        token = bool({*EMBEDDINGS, "queries"} & set(segments)) and "patch_embed" not in segments
        wd = 0.0 if token or row.param.ndim < 2 else row.wd_multiplier
        own = 1.0 if segments[0] == "head" else (optim.backbone_lr or optim.lr) / optim.lr
        yield row.name, row.param, row.lr_multiplier * own, wd
