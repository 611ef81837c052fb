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

GLOBAL_CROPS = 2  # of every image: G


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
class Targets:
    """Teacher probabilities ``exp(logits / temperature + row + column)`` in factorised form; they carry no gradient."""

    logits: Tensor  # [..., K] any float dtype
    temperature: float
    row: Tensor  # [...] fp32
    column: Tensor  # [K] fp32

    def dense(self) -> Tensor:
        """The probabilities ``[..., K]``, fp32."""
        logits = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        return (logits / self.temperature + self.column + self.row[..., None]).exp_()


class TeacherLogits(NamedTuple):
    """What the teacher whose outputs are the targets says, before it is centred."""

    cls: Tensor  # [G*B, D] normed
    cls_logits: Tensor  # [G, B, K]
    masked_logits: Tensor  # [M, K]
    grid: tuple[int, int]  # the student's
    patches: Tensor | None = None  # [G*B, P, D] normed; None after a pass that several students share

    def view(self, cls_targets: Targets, patch_targets: Targets) -> TeacherView:
        """With what has become of the logits in their place."""
        return TeacherView(self.cls, self.patches, self.grid, cls_targets=cls_targets, patch_targets=patch_targets)


class TeacherView(NamedTuple):
    """What one teacher says about the global crops of a batch; None: nothing of that kind."""

    cls: Tensor | None = None  # [G*B, D'] normed
    patches: Tensor | None = None  # [G*B, P, D'] normed, on ``grid``
    grid: tuple[int, int] | None = None  # (rows, cols), the student's
    tokens: Tensor | None = None  # [M, D'] of the masked patches, or [G*B*P, D'] of all
    cls_targets: Targets | None = None  # [G, B, K]
    patch_targets: Targets | None = None  # [M, K], of the masked patches


@dataclass(frozen=True)
class StepContext:
    """Everything an objective may look at in one step."""

    iteration: int
    batch: CropBatch
    student_global: StudentView
    student_local: StudentView
    student_heads: nn.ModuleDict  # trained heads by name, for objectives that have one of their own
    teachers: dict[str, TeacherView]  # by name: "ema" always, the others of the config when they have something to say


@dataclass(frozen=True)
class LossTerm:
    """An unweighted loss value and what to log beside it."""

    value: Tensor  # scalar, fp32, with a graph
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
