"""From samples to one CropBatch: crops stacked crop-major, masks turned into indices and weights.

The names and arguments of ``collate_data_and_cast`` and ``get_batch_subset`` are DINOv3's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.contracts import CropBatch
from dinov3.data.crops import GLOBAL_CROPS
from dinov3.data.masking import MaskingGenerator, circularly_shifted, mask_counts
from dinov3.distributed.transfer import send

Sample = tuple[Mapping[str, Sequence[Tensor]], Any]  # (crops by name, label)


def collate_data_and_cast(
    samples_list: Sequence[Sample],
    mask_ratio_tuple: tuple[float, float],
    mask_probability: float,
    dtype: torch.dtype,
    n_tokens: int,
    mask_generator: MaskingGenerator,
    random_circular_shift: bool = False,
    local_batch_size: int | None = None,
    *,
    rng: np.random.Generator,
) -> CropBatch:
    """Stack samples whose crops are ready (float, normalised) and draw their masks from ``rng``.

    A sample is (crops, label); crops has ``global_crops`` (two ``[C, H, W]``), ``local_crops`` and, if wanted,
    ``global_crops_clean`` and ``gram_teacher_crops``. ``n_tokens`` is the number of patches of a global crop. With
    ``local_batch_size`` there are masks for the crops of so many images only, whatever the number of samples.
    """
    images = len(samples_list) if local_batch_size is None else local_batch_size
    counts = rng.permutation(mask_counts(GLOBAL_CROPS * images, n_tokens, mask_probability, mask_ratio_tuple))
    masks = np.zeros((len(counts), n_tokens), dtype=bool)
    for row, wanted in enumerate(counts.tolist()):
        if wanted:
            mask = mask_generator(wanted, rng=rng)
            masks[row] = (circularly_shifted(mask, rng) if random_circular_shift else mask).ravel()
    global_crops = stacked(samples_list, "global_crops", dtype)
    assert global_crops is not None
    local_crops = stacked(samples_list, "local_crops", dtype)
    return assemble(
        global_crops,
        global_crops.new_zeros(0, *global_crops.shape[1:]) if local_crops is None else local_crops,
        masks,
        upperbound=int(counts.sum()),
        global_batch_size=len(samples_list),
        clean=stacked(samples_list, "global_crops_clean", dtype),
        gram=stacked(samples_list, "gram_teacher_crops", dtype),
    )


def stacked(samples: Sequence[Sample], name: str, dtype: torch.dtype) -> Tensor | None:
    """Crops ``[n*B, C, H, W]`` of that name, all images of crop 0 first; None when samples have none."""
    n_crops = len(samples[0][0].get(name, ()))
    if n_crops == 0:
        return None
    crops = torch.stack([crops[name][i] for i in range(n_crops) for crops, _ in samples])
    if not crops.is_floating_point():
        raise TypeError(f"{name} are {crops.dtype}: normalise them first, as photometric.render does")
    return crops.to(dtype)


def assemble(
    global_crops: Tensor,
    local_crops: Tensor,
    masks: NDArray[np.bool_],
    *,
    upperbound: int,
    global_batch_size: int,
    clean: Tensor | None = None,
    gram: Tensor | None = None,
    sample_ids: NDArray[np.int64] | None = None,
) -> CropBatch:
    """A CropBatch on the device of ``global_crops`` from stacked crops and host masks ``[G*B, P]``.

    Indices are made on the host, where the masks are, so that no device is waited for.
    """
    device = global_crops.device
    indices = np.flatnonzero(masks)  # [M]
    weights = np.repeat(1 / np.maximum(masks.sum(1), 1), masks.sum(1)).astype(np.float32)  # [M]

    def there(values: NDArray[Any]) -> Tensor:
        return send(torch.from_numpy(values), device)

    return CropBatch(
        collated_global_crops=global_crops,
        collated_local_crops=local_crops,
        collated_masks=there(masks),
        mask_indices_list=there(indices),
        masks_weight=there(weights),
        n_masked_patches=there(np.array([len(indices)], dtype=np.int64)),
        upperbound=upperbound,
        global_batch_size=global_batch_size,
        collated_global_crops_clean=clean,
        collated_gram_teacher_crops=gram,
        sample_ids=None if sample_ids is None else there(sample_ids),
    )


def get_batch_subset(batch: CropBatch, divide_by: int) -> CropBatch:
    """The first B // ``divide_by`` images, every crop and mask of them.

    ``upperbound`` stays: it still bounds the masked patches and is the same for every batch.
    """
    images = batch.batch_size
    kept = images // divide_by
    if kept < 1:
        raise ValueError(f"divide_by {divide_by} leaves none of {images} images")
    if len(batch.collated_masks) != len(batch.collated_global_crops):
        raise ValueError("only some images of the batch have masks (local_batch_size): a subset is not defined")

    def first(stack: Tensor) -> Tensor:
        return stack.unflatten(0, (-1, images))[:, :kept].flatten(0, 1) if len(stack) else stack

    def first_or_none(stack: Tensor | None) -> Tensor | None:
        return None if stack is None else first(stack)

    masks = first(batch.collated_masks)
    indices = masks.flatten().nonzero().flatten()
    per_crop = masks.sum(1)
    return CropBatch(
        collated_global_crops=first(batch.collated_global_crops),
        collated_local_crops=first(batch.collated_local_crops),
        collated_masks=masks,
        mask_indices_list=indices,
        masks_weight=(1 / per_crop.clamp(min=1).float())[indices // masks.shape[1]],
        n_masked_patches=per_crop.sum().reshape(1),
        upperbound=batch.upperbound,
        global_batch_size=batch.global_batch_size // divide_by,
        collated_global_crops_clean=first_or_none(batch.collated_global_crops_clean),
        collated_gram_teacher_crops=first_or_none(batch.collated_gram_teacher_crops),
        sample_ids=first_or_none(batch.sample_ids),
    )
