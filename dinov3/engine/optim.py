"""The optimizer: which multipliers each parameter gets, AdamW, clipping, and the moving average of the teacher."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dinov3.config.run_config import AdamWConfig

ADAMW_EPS = 1e-8
# Name segments that torch.compile and activation checkpointing put in front of what they wrap.
WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})
# Parameters below block 0 (layer id 0 of the decay), by the first segment of their name in a ViT.
EMBEDDINGS = frozenset({"cls_token", "storage_tokens", "mask_token", "patch_embed"})


@dataclass(frozen=True)
class ParamRow:
    """One parameter and what multiplies its learning rate and weight decay."""

    name: str  # without wrapper segments
    param: nn.Parameter
    lr_multiplier: float
    wd_multiplier: float
    is_last_layer: bool  # follows the learning rate of the last layer, which may be frozen at first


@dataclass
class ParamGroup:
    """Parameters with equal multipliers."""

    lr_multiplier: float
    wd_multiplier: float
    is_last_layer: bool
    names: list[str] = field(default_factory=list)
    params: list[nn.Parameter] = field(default_factory=list)


def parameter_rows(
    module: nn.Module, *, lr_decay_rate: float, patch_embed_lr_mult: float, dino_head_wd_multiplier: float
) -> list[ParamRow]:
    """Every trainable parameter of ``module`` with its multipliers, in the order of ``named_parameters``.

    Learning rate: ``lr_decay_rate ** (blocks + 1 - id)`` with id 0 for tokens and patch embedding (which is multiplied
    by ``patch_embed_lr_mult`` too), i + 1 for block i, and no decay for everything else: final norms, heads, ConvNeXt.
    Weight decay: 0 for names that end in ``bias`` or contain ``norm`` or ``gamma``; ``dino_head_wd_multiplier`` for what
    lies under a module named ``dino_head`` (not when the head itself is ``module``).
    """
    named = [(clean_name(name), p) for name, p in module.named_parameters() if p.requires_grad]
    n_blocks = len({block_index(name) for name, _ in module.named_parameters()} - {None})  # frozen ones count
    rows = []
    for name, param in named:
        segments = name.split(".")
        block = block_index(name)
        if block is not None:
            lr = lr_decay_rate ** (n_blocks - block)
        else:
            lr = lr_decay_rate ** (n_blocks + 1) if EMBEDDINGS & set(segments) else 1.0
        if "patch_embed" in segments:
            lr *= patch_embed_lr_mult
        wd = dino_head_wd_multiplier if "dino_head" in segments else 1.0
        if name.endswith("bias") or "norm" in name or "gamma" in name:
            wd = 0.0
        rows.append(ParamRow(name, param, lr, wd, "last_layer" in segments))
    return rows


def parameter_groups(
    module: nn.Module, *, lr_decay_rate: float, patch_embed_lr_mult: float, dino_head_wd_multiplier: float
) -> list[ParamGroup]:
    """``parameter_rows`` of ``module``, one group for each different set of multipliers, in order of first appearance."""
    groups: dict[tuple[float, float, bool], ParamGroup] = {}
    for row in parameter_rows(
        module,
        lr_decay_rate=lr_decay_rate,
        patch_embed_lr_mult=patch_embed_lr_mult,
        dino_head_wd_multiplier=dino_head_wd_multiplier,
    ):
        key = row.lr_multiplier, row.wd_multiplier, row.is_last_layer
        group = groups.setdefault(key, ParamGroup(*key))
        group.names.append(row.name)
        group.params.append(row.param)
    return list(groups.values())


def clean_name(name: str) -> str:
    """``name`` without the segments of compile and checkpoint wrappers."""
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPERS)


def block_index(name: str) -> int | None:
    """The i of ``blocks.i.`` in a name, None outside the blocks."""
    segments = name.split(".")
    if "blocks" not in segments[:-1]:
        return None
    return int(segments[segments.index("blocks") + 1])


def build_optimizer(groups: list[ParamGroup], cfg: AdamWConfig) -> torch.optim.AdamW:
    """AdamW over ``groups``; ``apply_schedules`` sets learning rates and weight decays before each step.

    Fused also on a CPU, where one step of 44 M parameters takes 0.32 s against 0.54 s one by one and 0.63 s foreach."""
    options: list[dict[str, Any]] = [
        {
            "params": group.params,
            "lr_multiplier": group.lr_multiplier,
            "wd_multiplier": group.wd_multiplier,
            "is_last_layer": group.is_last_layer,
        }
        for group in groups
    ]
    return torch.optim.AdamW(
        options,
        lr=cfg.lr,
        betas=(cfg.adamw_beta1, cfg.adamw_beta2),
        eps=ADAMW_EPS,
        weight_decay=cfg.weight_decay,
        fused=True,
    )


def apply_schedules(optimizer: torch.optim.Optimizer, lr: float, wd: float, last_layer_lr: float) -> None:
    """Set each group's learning rate and weight decay: the scheduled value times the group's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = (last_layer_lr if group["is_last_layer"] else lr) * group["lr_multiplier"]
        group["weight_decay"] = wd * group["wd_multiplier"]


def clip_per_submodule(student: nn.ModuleDict, max_norm: float | None) -> dict[str, Tensor]:
    """Scale the gradients of each submodule to a norm of at most ``max_norm``; None or 0 only measures.

    Returns:
        Norm before clipping by submodule: scalars on the parameters' device, whole also when parameters are sharded.
        Nothing waits for the device.
    """
    norms: dict[str, Tensor] = {}
    for name, module in student.items():
        params = [p for p in module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None], foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if params and max_norm:
            torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm, foreach=True)
        norms[name] = norm if params else norm.to(next(module.parameters()).device)
    return norms


@torch.no_grad()
def ema_update(teacher: Iterable[Tensor], student: Iterable[Tensor], momentum: float) -> None:
    """``teacher = momentum * teacher + (1 - momentum) * student`` in place, for parameters in the same order.

    Sharded parameters are updated shard by shard, without communication.

    Raises:
        ValueError: one has more tensors than the other, a pair is not sharded in the same way, or a teacher tensor is
            not fp32 (in bf16 the small steps of a momentum near 1 round to nothing).
    """
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    for t, s in zip(teacher, student, strict=True):
        if t.dtype != torch.float32:
            raise ValueError(f"EMA needs fp32 teacher parameters, got {t.dtype}")
        if getattr(t, "placements", None) != getattr(s, "placements", None):
            raise ValueError("EMA needs teacher and student parameters that are sharded in the same way")
        ours.append(t.to_local() if isinstance(t, DTensor) else t)
        theirs.append(s.to_local() if isinstance(s, DTensor) else s)
    torch._foreach_lerp_(ours, theirs, 1 - momentum)
