"""A training step of a config with tensors that have shapes and no values, in a group of processes that do not exist."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from dinov3.config.derived import clean_crop_size, crop_sizes, largest_global_crop
from dinov3.config.schema import Config
from dinov3.contracts import GLOBAL_CROPS, CropBatch
from dinov3.data.masking import mask_counts
from dinov3.distributed.context import world_size
from dinov3.distributed.imagined import Imagined, group_of
from dinov3.distributed.parallel import Parallel
from dinov3.engine.optim import build_optimizer
from dinov3.engine.precision import Precision
from dinov3.models.backbone import Backbone
from dinov3.models.execution import execution_of
from dinov3.objectives.centering import CenteredObjective
from dinov3.plan.outlines import OUTLINES
from dinov3.runs.state import allocate_optimizer_state
from dinov3.train.adapters import prepare_to_continue
from dinov3.train.parallelize import choose_parallel, parallelize
from dinov3.train.ssl_meta_arch import SSLMetaArch

HOST = torch.device("cpu")


@dataclass
class Ghost:
    """A model, its optimizer and one batch; ``mode`` is what its tensors live in."""

    mode: FakeTensorMode
    model: SSLMetaArch
    optimizer: torch.optim.Optimizer
    batches: list[CropBatch]
    done: list[str]


def ghost(cfg: Config, dtype: torch.dtype, per_machine: int) -> Ghost:
    """The training of ``cfg`` before its first step; in bf16 autocast or fp32, as ``dtype`` says.

    Tensors say that they are on a CPU, which has operators of the same shapes as a GPU; nothing is compiled.
    """
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, compile=False))
    precision = Precision(dtype, HOST, "planned")
    model = SSLMetaArch(cfg, "meta", precision)
    prepare_to_continue_without_values(model)
    mode = FakeTensorMode()
    with mode:
        for module in (model, *own_modules(model)):
            give_memory(module)
        for objective in model.objectives:
            if isinstance(objective, CenteredObjective):
                objective.passes = lambda logits: OUTLINES  # type: ignore[method-assign]
        student, frozen = model.student, model._frozen()
        model.parallel = Imagined(**vars(choose_parallel(cfg, precision, student, frozen, per_machine)))
        done = parallelize(cfg, student, frozen, model.parallel)
        if cfg.train.device != "cpu":  # a GPU computes in other forms
            for part in (student, *frozen):
                cast(Backbone, part["backbone"]).set_execution(execution_of(cfg, "cuda"))
        model.early_sums = model.parallel.early_sums(student)
        optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
        allocate_optimizer_state(optimizer)
        batches = [batch_of(cfg, world_size())]
        batches *= cfg.train.gradient_accumulation_steps
    return Ghost(mode, model, optimizer, batches, done)


def prepare_to_continue_without_values(model: SSLMetaArch) -> None:
    """Adapters and frozen blocks as training has them."""
    if model.cfg.lora.enabled or model.cfg.student.freeze_blocks:
        model.precision = dataclasses.replace(model.precision, device=HOST)
        prepare_to_continue(model)


@dataclass(frozen=True)
class Choice:
    """How a model is spread over processes, and its parameters, which have no memory."""

    parallel: Parallel
    trained: list[Tensor]
    frozen: list[Tensor]


def choice(cfg: Config, *, dtype: torch.dtype, processes: int, per_machine: int) -> Choice:
    """The decision that training would make. Raises what ``choose`` raises."""
    model = SSLMetaArch(cfg, "meta", Precision(dtype, HOST, "planned"))
    prepare_to_continue_without_values(model)
    with group_of(processes):
        parallel = choose_parallel(cfg, model.precision, model.student, model._frozen(), min(per_machine, processes))
    frozen: list[Tensor] = [parameter for part in model._frozen() for parameter in part.parameters()]
    return Choice(parallel, list(model.student.parameters()), frozen)


def own_modules(model: SSLMetaArch) -> list[nn.Module]:
    """What teachers keep to themselves, outside the module tree."""
    inside = set(model.modules())
    values = [value for teacher in model.teachers.values() for value in vars(teacher).values()]
    return [value for value in values if isinstance(value, nn.Module) and value not in inside]


def give_memory(model: nn.Module) -> None:
    """Every parameter and buffer from the meta device into the mode that is on; one that has two names stays one."""
    known: dict[Tensor, Tensor] = {}

    def made(old: Tensor) -> Tensor:
        if old not in known:
            new = torch.empty(old.shape, dtype=old.dtype, device=HOST)
            known[old] = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        return known[old]

    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, old in table.items():
                if old is not None:
                    table[name] = made(old)  # type: ignore[assignment]


def masked_patches(cfg: Config) -> int:
    """Of one batch at the largest resolution; every batch of a run has as many."""
    side = largest_global_crop(cfg) // cfg.student.patch_size
    low, high = cfg.ibot.mask_ratio_min_max
    with unset_fake_temporarily():
        crops = GLOBAL_CROPS * cfg.train.batch_size_per_gpu
        return int(mask_counts(crops, side**2, cfg.ibot.mask_sample_probability, (low, high)).sum())


def batch_of(cfg: Config, processes: int) -> CropBatch:
    """One batch of the largest resolution, as many patches masked as in every batch of a run."""
    sizes = max(crop_sizes(cfg), key=lambda s: (s.global_size, s.local_size))
    images, channels = cfg.train.batch_size_per_gpu, cfg.student.in_chans
    crops, cells = GLOBAL_CROPS * images, (sizes.global_size // cfg.student.patch_size) ** 2
    masked = masked_patches(cfg)

    def stack(n: int, side: int | None) -> Tensor | None:
        return None if side is None else torch.empty(n, channels, side, side)

    clean = clean_crop_size(cfg, sizes.global_size)
    large, small = stack(crops, sizes.global_size), stack(cfg.crops.local_crops_number * images, sizes.local_size)
    assert large is not None
    assert small is not None
    return CropBatch(
        collated_global_crops=large,
        collated_local_crops=small,
        collated_masks=torch.empty(crops, cells, dtype=torch.bool),
        mask_indices_list=torch.empty(masked, dtype=torch.int64),
        masks_weight=torch.empty(masked),
        n_masked_patches=torch.empty(1, dtype=torch.int64),
        upperbound=masked,
        global_batch_size=images * cfg.train.gradient_accumulation_steps * processes,
        collated_global_crops_clean=stack(crops, clean),
        collated_gram_teacher_crops=stack(crops, sizes.gram_size if cfg.gram.use_loss else None),
    )
