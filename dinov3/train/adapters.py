"""What continued training does to a model between loading its start and the first step: LoRA, frozen blocks, warm-up."""

from __future__ import annotations

from typing import cast

import torch

from dinov3.engine.optim import EMBEDDINGS, block_index
from dinov3.models.backbone import Backbone
from dinov3.models.lora import add_lora
from dinov3.train.ssl_meta_arch import SSLMetaArch


def prepare_to_continue(model: SSLMetaArch) -> list[str]:
    """Add adapters and freeze what shall stay; returns what was done, to be printed. Before compilation and sharding.

    ValueError when the architecture has not what the config names.
    """
    cfg, backbone, done = model.cfg, cast(Backbone, model.student["backbone"]), []
    if cfg.lora.enabled:
        generator = torch.Generator(model.precision.device).manual_seed(cfg.train.seed)
        trained = add_lora(backbone, cfg.lora.targets, cfg.lora.rank, cfg.lora.alpha, generator)
        done.append(
            f"LoRA       rank {cfg.lora.rank}, alpha {cfg.lora.alpha:g}: {trained / 1e6:.2f} M parameters of the backbone train"
        )
    if cfg.student.freeze_blocks:
        frozen = freeze_first(backbone, cfg.student.freeze_blocks)
        done.append(
            f"frozen     tokens, patch embedding and {cfg.student.freeze_blocks} blocks: {frozen / 1e6:.2f} M parameters"
        )
    if model.head_warmup_steps:
        done.append(
            f"heads      train alone for {model.head_warmup_steps} steps (head_warmup.when={cfg.head_warmup.when})"
        )
    return done


def freeze_first(backbone: Backbone, blocks: int) -> int:
    """Hold everything below block number ``blocks``; returns how many parameters that is."""
    if blocks > backbone.n_blocks:
        raise ValueError(f"student.freeze_blocks {blocks}: the backbone has {backbone.n_blocks} blocks")
    frozen = 0
    for name, parameter in backbone.named_parameters():
        block = block_index(name)
        if (block is None and EMBEDDINGS & set(name.split("."))) or (block is not None and block < blocks):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen
