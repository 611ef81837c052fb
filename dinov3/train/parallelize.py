"""Activation checkpointing, compilation and sharding of a training model, in the one order in which they work."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from dinov3.config.derived import fused
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.distributed.parallel import Parallel, choose
from dinov3.distributed.shard import compile_forward, shard
from dinov3.engine.precision import DTYPES, Precision
from dinov3.models import fp8
from dinov3.models.attention import SelfAttention
from dinov3.models.backbone import Backbone
from dinov3.models.checkpointing import CheckpointedBlock
from dinov3.models.execution import execution_of

RECOMPILE_LIMIT = 64


def choose_parallel(
    cfg: Config, precision: Precision, student: nn.Module, frozen: Sequence[nn.Module], per_machine: int
) -> Parallel:
    """How this model is spread over the processes there are, ``per_machine`` of them on each."""
    return choose(
        cfg.compute_precision.sharding_strategy,
        trained=sum(p.numel() for p in student.parameters()),
        frozen=sum(p.numel() for model in frozen for p in model.parameters()),
        param_dtype=precision.dtype,
        reduce_dtype=DTYPES[cfg.compute_precision.reduce_dtype],
        device_type=precision.device.type,
        per_machine=per_machine,
    )


def parallelize(cfg: Config, student: nn.ModuleDict, frozen: Sequence[nn.ModuleDict], parallel: Parallel) -> list[str]:
    """Returns what was done, to be printed.

    What is recomputed lies inside a block's forward; that forward is compiled; FSDP2's hooks lie around it.
    """
    train, device, done = cfg.train, parallel.device_type, []
    if train.checkpointing or train.checkpointing_full:
        mode: Literal["full", "selective"] = "full" if train.checkpointing_full else "selective"
        cast(Backbone, student["backbone"]).set_checkpointing(mode)
        done.append(f"activation checkpointing: {mode}")
    for model in (student, *frozen):
        cast(Backbone, model["backbone"]).set_execution(execution_of(cfg, device))
    if cfg.compute_precision.fused_rotation:
        rotates = any(isinstance(part, SelfAttention) for part in student["backbone"].modules())
        done.append(rotation_line(device) if rotates else "rotation: this backbone has none")
    if cfg.student.fp8_enabled:
        done.append(fp8_line(cfg, student["backbone"]))
    if train.cudagraphs and (device != "cuda" or parallel.shards):
        why = (
            "whole copies of the model, and this one is sharded" if parallel.shards else f"a GPU, and this is {device}"
        )
        raise ConfigError("config", "train.cudagraphs", f"true needs {why}: set it to false")
    if fused(cfg, device):
        done.append("losses: compiled")
    modules = [module for model in (student, *frozen) for module in model.values()]
    if train.compile and device == "cuda":
        # every crop size of every resolution is a graph of one code object, Backbone.forward; torch's own limit is 8
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        in_blocks = parallel.shards or train.compile_blocks
        for module in modules:
            compile_module(module, in_blocks=in_blocks, cudagraphs=train.cudagraphs)
        done.append(f"torch.compile: {'blocks' if in_blocks else 'backbones'}, heads and frozen teachers")
        done += ["CUDA graphs: backbones"] if train.cudagraphs else []
    elif train.compile:
        done.append(f"torch.compile: off, it pays on GPUs only (this is {device})")
    if parallel.shards:
        for model in (student, *frozen):
            for module in model.values():
                shard(module, blocks_of(module), parallel, trains=model is student)
    return [*done, f"parameters: {parallel}"]


def rotation_line(device: str) -> str:
    """What ``compute_precision.fused_rotation`` does on a device of this type."""
    if device != "cuda":
        return f"rotation: split and turned by operators, its kernels are for GPUs (this is {device})"
    if importlib.util.find_spec("triton") is None:
        raise ConfigError("config", "compute_precision.fused_rotation", "true needs triton, which is not installed")
    return "rotation: heads split and turned by one kernel a crop size"


def fp8_line(cfg: Config, backbone: nn.Module) -> str:
    """Put the layers of ``student.fp8_filter`` into fp8 where that is possible; what was done, or why not."""
    if (why := fp8.problem_with(next(backbone.parameters()).device)) is not None:
        return f"fp8: off, {why}: layers compute in compute_precision.param_dtype"
    return f"fp8: {fp8.compute_in_fp8(backbone, cfg.student.fp8_filter)} linear layers of the student"


def compile_module(module: nn.Module, *, in_blocks: bool, cudagraphs: bool = False) -> None:
    """As one graph, the fastest; a backbone block by block where FSDP2 must step in between."""
    if not isinstance(module, Backbone):
        compile_forward(module, dynamic=None)  # a head: another number of masked patches every step
        return
    for part in blocks_of(module) if in_blocks else [module]:
        compile_forward(part, cudagraphs=cudagraphs)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone, in order; none in a head."""
    return [part for part in module.modules() if isinstance(part, CheckpointedBlock)]
