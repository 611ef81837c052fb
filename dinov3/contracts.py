"""All that crosses a folder border. Read this first.

Letters used in shape comments everywhere:
    B  images of this process's batch        G  global crops an image (2)      L  local crops an image
    C  image channels                        H, W  pixels                      D  embedding width
    P  patch tokens of a crop                R  storage (register) tokens      M  masked patch tokens of the batch
    K  prototypes                            N  crops, images or rows, whatever the function is given
Crops are stacked crop-major: all images of crop 0, then all images of crop 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Features(NamedTuple):
    """What a backbone returns for one stack of equally sized images.

    A NamedTuple, not a dataclass: FSDP2 finds outputs by pytree, and an unregistered dataclass is one opaque leaf.
    """

    cls: Tensor  # [N, D] normed
    storage: Tensor  # [N, R, D] normed
    patches: Tensor  # [N, P, D] normed
    prenorm: Tensor  # [N, 1 + R + P, D] every token before the last norm (ConvNeXt: [N, P, D])
    grid: tuple[int, int]  # (rows, cols), rows * cols == P


@dataclass(frozen=True)
class CropBatch:
    """One training batch on one process: augmented, clean and masked views. ``batch["name"]`` works too."""

    collated_global_crops: Tensor  # [G*B, C, H, W] augmented
    collated_local_crops: Tensor  # [L*B, C, h, w] augmented
    collated_masks: Tensor  # [G*B, P] bool, True where the student sees the mask token
    mask_indices_list: Tensor  # [M] int64, flat indices into [G*B*P]
    masks_weight: Tensor  # [M] float32, 1 / masked tokens of that crop
    n_masked_patches: Tensor  # [1] int64, M
    upperbound: int  # the same number for every batch of this size: M never exceeds it
    global_batch_size: int  # images over all processes
    collated_global_crops_clean: Tensor | None = None  # [G*B, C, Hc, Wc] same geometry, normalised only
    collated_gram_teacher_crops: Tensor | None = None  # [G*B, C, Hg, Wg] same geometry, larger
    sample_ids: Tensor | None = None  # [B] int64, position in the stream of samples

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> CropBatch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device, non_blocking=non_blocking)
        return replace(self, **values)

    @property
    def batch_size(self) -> int:
        """Images on this process (B)."""
        return self.collated_global_crops.shape[0] // 2


@dataclass(frozen=True)
class StudentView:
    """What the student produced for one kind of crop (global or local)."""

    cls_pre_head: Tensor  # [n_crops, B, D]
    cls_after_head: Tensor  # [n_crops, B, K]
    patches: Tensor  # [n_crops*B, P, D] normed patch tokens
    grid: tuple[int, int]  # (rows, cols) of patches
    masked_patch_pre_head: Tensor | None = None  # [M, D]
    masked_patch_after_head: Tensor | None = None  # [M, K_ibot]


@dataclass(frozen=True)
class StepContext:
    """Everything an objective may look at in one step."""

    iteration: int
    batch: CropBatch
    student_global: StudentView
    student_local: StudentView
    student_heads: nn.ModuleDict  # trained heads by name, for objectives that have one of their own
    teachers: dict[str, dict[str, Any]]  # by name: "ema" always, "gram" and "da3" when there is one


@dataclass(frozen=True)
class LossTerm:
    """An unweighted loss value and what to log beside it."""

    value: Tensor  # scalar, fp32, with a graph
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
