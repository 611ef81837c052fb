"""How the state of training is spread over processes: decided once, from the config and the size of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from dinov3.config.errors import ConfigError
from dinov3.distributed.context import world_size
from dinov3.distributed.replicate import EarlySums

KEY = "compute_precision.sharding_strategy"
# Bytes a process holds for each parameter when nothing is sharded.
TRAINED_BYTES, FROZEN_BYTES = 16, 4  # fp32 weight, gradient, AdamW's two moments; fp32 weight
# What ``auto`` lets one process hold: a tenth of an 80 GB GPU as whole copies (a ViT-L with its heads: 7 GB), a fifth
# of it as gathered weights kept for the backward pass, two fifths as the shard of one machine.
WHOLE_LIMIT, GATHERED_LIMIT, MACHINE_LIMIT = 8e9, 16e9, 32e9
KEPT = frozenset({"SHARD_GRAD_OP", "_HYBRID_SHARD_ZERO2"})  # gathered weights are kept until the backward pass
HYBRID = frozenset({"HYBRID_SHARD", "_HYBRID_SHARD_ZERO2"})


@dataclass(frozen=True)
class Parallel:
    """The decision. ``strategy`` has the names of torch's ``ShardingStrategy``, never ``auto``."""

    strategy: str
    reason: str
    param_dtype: torch.dtype  # of gathered weights
    reduce_dtype: torch.dtype  # in which gradients are summed
    device_type: str
    per_machine: int  # processes of one machine

    @property
    def shards(self) -> bool:
        """False: every process holds whole copies."""
        return self.strategy != "NO_SHARD" and world_size() > 1

    @property
    def reshard_after_forward(self) -> bool:
        """Weights are gathered a second time for the backward pass: less memory, half as much traffic again."""
        return self.strategy not in KEPT

    def mesh(self) -> DeviceMesh:
        """All processes in one line, or machines x processes of a machine, sharded along the second dimension."""
        machines = world_size() // self.per_machine
        if self.strategy in HYBRID and machines > 1:
            return init_device_mesh(
                self.device_type, (machines, self.per_machine), mesh_dim_names=("replicate", "shard")
            )
        return init_device_mesh(self.device_type, (world_size(),), mesh_dim_names=("shard",))

    def policy(self) -> MixedPrecisionPolicy:
        """Weights are gathered in the number format autocast would cast them to; autocast decides the rest, op by op.

        Inputs are not cast: rotary positions and images stay in fp32.
        """
        param_dtype = None if self.param_dtype == torch.float32 else self.param_dtype
        return MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=self.reduce_dtype, cast_forward_inputs=False)

    def early_sums(self, model: nn.Module) -> EarlySums | None:
        """What sums the gradients of ``model`` over processes during the backward pass; None where FSDP2 does, or alone."""
        if self.shards or world_size() == 1:
            return None
        return EarlySums([p for p in model.parameters() if p.requires_grad], self.reduce_dtype)

    def finish_backward(self, model: nn.Module) -> None:
        """Make every weight a shard again; gradients are, FSDP2 has summed them."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # weights that were gathered for a forward pass without a backward pass are still whole

    def __str__(self) -> str:
        """One line for the start-up block."""
        if world_size() == 1:
            return f"whole ({self.reason})"
        summed = str(self.reduce_dtype).removeprefix("torch.")
        return f"{self.strategy} ({self.reason}), gradients summed in {summed}"


ALONE = Parallel("NO_SHARD", "not decided yet", torch.float32, torch.float32, "cpu", 1)


def choose(
    strategy: str,
    *,
    trained: int,
    frozen: int,
    param_dtype: torch.dtype,
    reduce_dtype: torch.dtype,
    device_type: str,
    per_machine: int,
) -> Parallel:
    """Decide for a model of ``trained`` and ``frozen`` parameters. ConfigError when the machines are not alike."""
    world = world_size()
    reason = f"{KEY} says so"
    if world == 1:
        strategy, reason = "NO_SHARD", "one process"
    elif strategy == "auto":
        strategy, reason = _automatic(trained, frozen, param_dtype, world, per_machine)
    if strategy in HYBRID and (per_machine == 0 or world % per_machine):
        here = f"here {per_machine} of {world}" if per_machine else "here one has more than another"
        raise ConfigError("config", KEY, f"{strategy} needs equally many processes on every machine, {here}")
    if strategy in HYBRID and world == per_machine:
        reason += "; with one machine it shards over all processes"
    return Parallel(strategy, reason, param_dtype, reduce_dtype, device_type, per_machine)


def _automatic(trained: int, frozen: int, param_dtype: torch.dtype, world: int, per_machine: int) -> tuple[str, str]:
    state = TRAINED_BYTES * trained + FROZEN_BYTES * frozen
    size = f"auto: weights, gradients and moments take {state / 1e9:.1f} GB"
    if state <= WHOLE_LIMIT:
        return "NO_SHARD", f"{size}, at most {WHOLE_LIMIT / 1e9:.0f}: every process holds them whole"
    kept = trained * param_dtype.itemsize <= GATHERED_LIMIT
    if world > per_machine > 0 and world % per_machine == 0 and state / per_machine <= MACHINE_LIMIT:
        name = "_HYBRID_SHARD_ZERO2" if kept else "HYBRID_SHARD"
        return name, f"{size}, {state / per_machine / 1e9:.1f} a process when each machine shards for itself"
    return "SHARD_GRAD_OP" if kept else "FULL_SHARD", f"{size}, {state / world / 1e9:.1f} a process"
