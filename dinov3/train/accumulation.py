"""One optimizer step from several batches, with the losses and gradients of one batch of all their images.

The mean over parts of a batch is the mean over the batch for every loss that treats images one by one. Two things do not:

* Targets. Sinkhorn-Knopp balances all rows of the step, so the teacher sees every part first and its logits are kept.
* Losses between images (KoLeo's neighbours, Gram matrices of a batch) or over unequal parts (masked tokens). The student
  sees every part once without a graph; the loss of the joined features gives its gradient with respect to them; a second
  pass, part by part and with the same draws, carries it into the weights (Gao et al. 2021, "Scaling deep contrastive
  learning batch size under memory limited setup").

``train.accumulation: per_micro_batch`` does neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dinov3.config.derived import images_per_process, largest_global_crop
from dinov3.config.schema import Config
from dinov3.contracts import (
    GLOBAL_CROPS,
    CropBatch,
    StepContext,
    StudentView,
    Targets,
    TeacherLogits,
    TeacherView,
)
from dinov3.data.masking import mask_counts
from dinov3.distributed.context import rank
from dinov3.engine.model_randomness import seed_model_randomness
from dinov3.objectives.base import Objective
from dinov3.train.ssl_meta_arch import SSLMetaArch

Terms = dict[str, Tensor | float]


def accumulate(
    model: SSLMetaArch, parts: Sequence[CropBatch], *, teacher_temp: float, iteration: int
) -> tuple[Tensor, Terms]:
    """Losses and gradients of one optimizer step of ``parts``, equally large batches; as ``SSLMetaArch.forward_backward``."""
    if len(parts) > 1 and model.cfg.train.accumulation == "exact":
        total, terms = _exact(model, parts, teacher_temp=teacher_temp, iteration=iteration)
    else:
        results = []
        for number, batch in enumerate(parts):
            _seed(model, iteration, number, len(parts))
            share = {"share": 1 / len(parts)} if len(parts) > 1 else {}
            if number == len(parts) - 1:
                model.last_backward()
            results.append(model.forward_backward(batch, teacher_temp=teacher_temp, iteration=iteration, **share))
        total = torch.stack([loss for loss, _ in results]).mean()
        terms = _mean([terms for _, terms in results])
    local = float(sum(batch.batch_size for batch in parts))
    return total, {**terms, "local_batch_size": local, "global_batch_size": float(parts[0].global_batch_size)}


def kept_logits(cfg: Config, itemsize: int) -> int:
    """Bytes of the teacher logits that exact accumulation keeps on one process; ``itemsize`` bytes a number."""
    crops = GLOBAL_CROPS * images_per_process(cfg)
    ibot, patches = cfg.ibot, (largest_global_crop(cfg) // cfg.student.patch_size) ** 2
    low, high = ibot.mask_ratio_min_max
    masked = int(mask_counts(crops, patches, ibot.mask_sample_probability, (low, high)).sum())
    return itemsize * (crops * cfg.dino.head_n_prototypes + masked * ibot.head_n_prototypes)


def _seed(model: SSLMetaArch, iteration: int, part: int, n_parts: int) -> None:
    seed_model_randomness(model.cfg.train.seed, iteration, rank() * n_parts + part)


def _mean(terms: Sequence[Terms]) -> Terms:
    """Of every entry over the parts; all parts have the same ones."""
    means: Terms = {}
    for name in terms[0]:
        values = [t[name] for t in terms]
        tensors = [v for v in values if isinstance(v, Tensor)]
        means[name] = torch.stack(tensors).mean() if tensors else sum(map(float, values)) / len(values)
    return means


def _exact(
    model: SSLMetaArch, parts: Sequence[CropBatch], *, teacher_temp: float, iteration: int
) -> tuple[Tensor, Terms]:
    with model.precision.autocast():
        ema = joined_targets(model, parts, teacher_temp)
    joint = [objective for objective in model.objectives if objective.joint_features]
    alone = [objective for objective in model.objectives if not objective.joint_features]
    done = _joint_gradients(model, joint, parts, ema, iteration) if joint else None
    totals, parts_terms = [], []
    for number, batch in enumerate(parts):
        _seed(model, iteration, number, len(parts))
        with model.precision.autocast():
            student_global, student_local = model.get_student_output(batch)
            if done is None:
                others = model.get_other_teachers(batch, ema[number], student_global.grid, iteration)
            else:
                others = done.teachers[number]
            teachers = {"ema": ema[number], **others}
            context = StepContext(iteration, batch, student_global, student_local, model.student, teachers)
            total, part_terms = model.compute_losses(context, alone)
            wanted = total / len(parts)
            for name, gradient in done.gradients.items() if done is not None else ():
                wanted = wanted + (gradient.chunk(len(parts), dim=1)[number] * _feature(student_global, name)).sum()
        if number == len(parts) - 1:
            model.last_backward()
        wanted.backward()
        totals.append(total.detach())
        parts_terms.append(part_terms)
    total, terms = torch.stack(totals).mean(), _mean(parts_terms)
    return (total, terms) if done is None else (total + done.total, {**terms, **done.terms})


@torch.no_grad()
def joined_targets(model: SSLMetaArch, parts: Sequence[CropBatch], teacher_temp: float) -> list[TeacherView]:
    """``get_teacher_output`` of every part, its targets those of all parts' rows together.

    Logits go straight into one tensor: at 65,536 prototypes those of 64 images and their masked patches are gigabytes.
    """
    outputs: list[TeacherLogits] = []
    n_rows = [len(batch.mask_indices_list) for batch in parts]
    cls: Tensor | None = None
    patches: Tensor | None = None
    for number, batch in enumerate(parts):
        out = model.get_teacher_logits(batch.collated_global_crops, batch.mask_indices_list)
        if cls is None or patches is None:
            n_images = len(parts) * batch.batch_size
            cls = out.cls_logits.new_empty(GLOBAL_CROPS, n_images, out.cls_logits.shape[-1])  # [G, B, K]
            patches = out.masked_logits.new_empty(sum(n_rows), out.masked_logits.shape[-1])  # [M, K]
        cls[:, number * batch.batch_size : (number + 1) * batch.batch_size] = out.cls_logits
        patches[sum(n_rows[:number]) : sum(n_rows[: number + 1])] = out.masked_logits
        outputs.append(out._replace(cls_logits=cls, masked_logits=patches))  # the part's own are not kept
    assert cls is not None
    assert patches is not None
    of_cls = model.dino_loss.targets(cls, teacher_temp)
    of_patches = model.ibot_patch_loss.targets(patches, teacher_temp)
    views = []
    for number, (out, batch) in enumerate(zip(outputs, parts, strict=True)):
        images = slice(number * batch.batch_size, (number + 1) * batch.batch_size)
        rows = slice(sum(n_rows[:number]), sum(n_rows[: number + 1]))
        views.append(
            out.view(
                Targets(of_cls.logits[:, images], of_cls.temperature, of_cls.row[:, images], of_cls.column),
                Targets(of_patches.logits[rows], of_patches.temperature, of_patches.row[rows], of_patches.column),
            )
        )
    return views


@dataclass(frozen=True)
class _Joint:
    """What the objectives over all parts gave."""

    total: Tensor  # scalar, weighted
    terms: Terms
    gradients: dict[str, Tensor]  # with respect to the student's cls [G, B, D], patches [G, B, P, D]
    teachers: list[dict[str, TeacherView]]  # of each part, all but the EMA


def _joint_gradients(
    model: SSLMetaArch,
    joint: Sequence[Objective],
    parts: Sequence[CropBatch],
    ema: Sequence[TeacherView],
    iteration: int,
) -> _Joint:
    """The objectives of all parts together, backwards as far as the features; heads they own have their gradients then."""
    names = {name for objective in joint for name in objective.joint_features}
    kept: dict[str, list[Tensor]] = {"cls": [], "patches": []}
    teachers: list[dict[str, TeacherView]] = []
    grid = (0, 0)
    # a pass of its own: within one autocast, weights that were cast without a graph would be used again without it
    with torch.no_grad(), model.precision.autocast():
        for number, batch in enumerate(parts):
            _seed(model, iteration, number, len(parts))
            features = model.get_student_features(batch)[0]
            grid = features.grid
            kept["cls"].append(features.cls.unflatten(0, (GLOBAL_CROPS, -1)))
            crops = features.patches.unflatten(0, (GLOBAL_CROPS, -1))  # [G, b, P, D]
            kept["patches"].append(crops if "patches" in names else crops[:, :, :0])
            teachers.append(model.get_other_teachers(batch, ema[number], grid, iteration))
    leaves = {name: torch.cat(tensors, dim=1).requires_grad_() for name, tensors in kept.items()}
    with model.precision.autocast():
        batch = joined_batch(parts)
        patches = leaves["patches"].flatten(0, 1)  # [G*B, P, D]
        has_patches = patches.shape[1] > 0
        view = StudentView(
            cls_pre_head=leaves["cls"],
            cls_after_head=leaves["cls"][..., :0],
            patches=patches,
            grid=grid,
            masked_patch_pre_head=patches.flatten(0, 1).index_select(0, batch.mask_indices_list)
            if has_patches
            else None,
        )
        none = StudentView(view.cls_pre_head[:0], view.cls_after_head[:0], patches[:0], grid)
        context = StepContext(iteration, batch, view, none, model.student, _joined_teachers(teachers))
        total, terms = model.compute_losses(context, joint)
    total.backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None and name in names}
    return _Joint(total.detach(), terms, gradients, teachers)


def _feature(view: StudentView, name: str) -> Tensor:
    """The joint feature of one part, ``[G, b, ...]``."""
    return view.cls_pre_head if name == "cls" else view.patches.unflatten(0, (GLOBAL_CROPS, -1))


def _joined_teachers(parts: Sequence[Mapping[str, TeacherView]]) -> dict[str, TeacherView]:
    """Every teacher's output on the joined batch: crops are crop-major, ``tokens`` are those of masked patches, part by part.

    The EMA's targets are not among them.
    """
    joined = {}
    for name, first in parts[0].items():
        views = [part[name] for part in parts]
        joined[name] = TeacherView(
            cls=_stacked([view.cls for view in views]),
            patches=_stacked([view.patches for view in views]),
            grid=first.grid,
            tokens=None if first.tokens is None else torch.cat([v.tokens for v in views if v.tokens is not None]),
        )
    return joined


def _stacked(stacks: Sequence[Tensor | None]) -> Tensor | None:
    return None if stacks[0] is None else _crop_major([stack for stack in stacks if stack is not None])


def _crop_major(stacks: Sequence[Tensor]) -> Tensor:
    """``[G*b, ...]`` of every part to ``[G*B, ...]``."""
    return torch.cat([stack.unflatten(0, (GLOBAL_CROPS, -1)) for stack in stacks], dim=1).flatten(0, 1)


def joined_batch(parts: Sequence[CropBatch]) -> CropBatch:
    """All images of ``parts`` as one batch whose pixels are NaN: masks, indices and weights are what losses look at.

    Masked patches keep the order of the parts, so no device is waited for to sort them.
    """
    masks = _crop_major([batch.collated_masks for batch in parts])  # [G*B, P]
    images, n_images, n_patches = parts[0].batch_size, sum(b.batch_size for b in parts), masks.shape[1]
    indices = []
    for number, batch in enumerate(parts):
        crop_image, patch = batch.mask_indices_list // n_patches, batch.mask_indices_list % n_patches
        crop, image = crop_image // images, crop_image % images
        indices.append((crop * n_images + number * images + image) * n_patches + patch)
    return CropBatch(
        collated_global_crops=_no_pixels(parts[0].collated_global_crops, len(parts)),
        collated_local_crops=_no_pixels(parts[0].collated_local_crops, len(parts)),
        collated_masks=masks,
        mask_indices_list=torch.cat(indices),
        masks_weight=torch.cat([batch.masks_weight for batch in parts]),
        n_masked_patches=torch.stack([batch.n_masked_patches for batch in parts]).sum(0),
        upperbound=sum(batch.upperbound for batch in parts),
        global_batch_size=parts[0].global_batch_size,
    )


def _no_pixels(crops: Tensor, n_parts: int) -> Tensor:
    """The shape of ``n_parts`` such stacks ``[N, C, H, W]`` in the memory of one number."""
    return crops.new_full((), torch.nan).expand(n_parts * len(crops), *crops.shape[1:])
