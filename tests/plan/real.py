"""The step that ``dinov3.plan`` counts without values, with values and in a real group."""

from __future__ import annotations

import torch

from dinov3.config.schema import Config
from dinov3.distributed.context import world_size
from dinov3.engine.optim import build_optimizer
from dinov3.engine.precision import resolve
from dinov3.plan.ghost import Ghost, batch_of
from dinov3.runs.state import allocate_optimizer_state
from dinov3.train.ssl_meta_arch import SSLMetaArch

CPU = torch.device("cpu")


def real_step(cfg: Config) -> Ghost:
    """Model, optimizer and batch on the CPU, of the shapes the plan has."""
    asked = cfg.compute_precision
    model = SSLMetaArch(cfg, CPU, resolve(asked.param_dtype, CPU, asked.cpu_dtype))
    model.init_weights(torch.Generator().manual_seed(0))
    done = model.prepare_for_distributed_training()
    optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    batch = batch_of(cfg, world_size())
    for crops in (batch.collated_global_crops, batch.collated_local_crops):
        crops.normal_(generator=torch.Generator().manual_seed(1))
    batch.collated_masks.zero_()
    batch.mask_indices_list.copy_(torch.arange(len(batch.mask_indices_list)))
    batch.collated_masks.view(-1)[batch.mask_indices_list] = True
    batch.masks_weight.fill_(1.0)
    batch.n_masked_patches.fill_(len(batch.mask_indices_list))
    batches = [batch] * cfg.train.gradient_accumulation_steps
    return Ghost(torch._subclasses.FakeTensorMode(), model, optimizer, batches, done)
