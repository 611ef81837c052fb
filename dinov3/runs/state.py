"""The whole state of a training run as one flat table of tensors, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dinov3.distributed.shard import local, whole


def named_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """AdamW's ``step``, ``exp_avg`` and ``exp_avg_sq`` as ``optimizer.state.<parameter name>.<key>``, DINOv3's names."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, tensor in state.items():
            yield f"optimizer.state.{names[parameter]}.{key}", tensor


def allocate_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its AdamW state at once, so that a checkpoint has the same names at every step.

    Zeros are what AdamW itself starts from at a parameter's first gradient.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            on_device = group.get("fused") or group.get("capturable")
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def training_tensors(model: nn.Module, state: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The model's ``state`` and the optimizer's as one table of live tensors: filling it in place restores the run."""
    return {**state, **dict(named_optimizer_tensors(model, optimizer))}


def first_not_finite(tensors: dict[str, Tensor]) -> str | None:
    """Name of the first tensor whose part on this process holds a nan or inf."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(local(tensor)).all()):
            return name
    return None


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names and bytes of whole tensors: equal digests are bit-identical states.

    Every process must call it when tensors are sharded.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(whole(tensors[name].detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
