from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.contracts import CropBatch
from dinov3.data.collate import Sample, assemble, collate_data_and_cast, get_batch_subset
from dinov3.data.masking import MaskingGenerator


def sample(image: int, n_local: int = 3, **more: list[torch.Tensor]) -> Sample:
    crops = {
        "global_crops": [torch.full((3, 8, 8), 10.0 * image + crop) for crop in range(2)],
        "local_crops": [torch.full((3, 4, 4), 100.0 + 10 * image + crop) for crop in range(n_local)],
        **more,
    }
    return crops, image


def collated(samples: list[Sample], seed: int = 0, dtype: torch.dtype = torch.float32, **options: object) -> CropBatch:
    return collate_data_and_cast(
        samples,
        (0.1, 0.5),
        0.5,
        dtype,
        16,
        MaskingGenerator(4),
        rng=np.random.default_rng(seed),
        **options,  # type: ignore[arg-type]
    )


def full_sample(image: int) -> Sample:
    clean = [torch.full((3, 6, 6), 1000.0 + 10 * image + crop) for crop in range(2)]
    gram = [torch.full((3, 12, 12), 2000.0 + 10 * image + crop) for crop in range(2)]
    return sample(image, global_crops_clean=clean, gram_teacher_crops=gram)


def test_crops_are_stacked_crop_by_crop() -> None:
    batch = collated([full_sample(image) for image in range(2)])
    assert batch.collated_global_crops[:, 0, 0, 0].tolist() == [0, 10, 1, 11]
    assert batch.collated_local_crops[:, 0, 0, 0].tolist() == [100, 110, 101, 111, 102, 112]


def test_clean_and_gram_crops_stand_at_the_place_of_their_global_crop() -> None:
    batch = collated([full_sample(image) for image in range(3)])
    first = batch.collated_global_crops[:, 0, 0, 0]
    assert batch.collated_global_crops_clean is not None
    assert batch.collated_gram_teacher_crops is not None
    assert torch.equal(batch.collated_global_crops_clean[:, 0, 0, 0], first + 1000)
    assert torch.equal(batch.collated_gram_teacher_crops[:, 0, 0, 0], first + 2000)


def test_there_are_no_clean_or_gram_crops_when_samples_have_none() -> None:
    batch = collated([sample(0), sample(1)])
    assert batch.collated_global_crops_clean is None
    assert batch.collated_gram_teacher_crops is None


def test_crops_are_cast_and_weights_stay_float32() -> None:
    batch = collated([full_sample(0)], dtype=torch.bfloat16)
    assert batch.collated_global_crops.dtype == torch.bfloat16
    assert batch.collated_local_crops.dtype == torch.bfloat16
    assert batch.masks_weight.dtype == torch.float32


def test_pixels_that_were_not_normalised_are_refused() -> None:
    raw: Sample = ({"global_crops": [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2}, None)
    with pytest.raises(TypeError, match=r"global_crops are torch\.uint8: normalise them first"):
        collated([raw])


def test_no_local_crops_are_an_empty_stack() -> None:
    assert collated([sample(0, n_local=0)]).collated_local_crops.shape[0] == 0


def test_masks_are_drawn_from_the_given_generator_alone() -> None:
    samples = [sample(image) for image in range(4)]
    assert torch.equal(collated(samples, 3).collated_masks, collated(samples, 3).collated_masks)
    assert not torch.equal(collated(samples, 3).collated_masks, collated(samples, 4).collated_masks)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 6), patches=st.integers(1, 9), data=st.data())
def test_indices_and_weights_follow_from_the_masks(rows: int, patches: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=rows * patches, max_size=rows * patches))
    masks = np.array(bits).reshape(rows, patches)
    batch = assemble(torch.zeros(rows, 3, 2, 2), torch.zeros(0), masks, upperbound=99, global_batch_size=1)
    where, weights = [], []
    for row in range(rows):
        for patch in range(patches):
            if masks[row, patch]:
                where.append(row * patches + patch)
                weights.append(1 / masks[row].sum())
    assert batch.mask_indices_list.tolist() == where
    assert torch.equal(batch.masks_weight, torch.tensor(weights, dtype=torch.float32))
    assert batch.n_masked_patches.tolist() == [len(where)]
    assert batch.mask_indices_list.dtype == batch.n_masked_patches.dtype == torch.int64


def test_weights_of_an_image_sum_to_one() -> None:
    batch = collated([sample(image) for image in range(8)])
    assert batch.masks_weight.sum() == pytest.approx(float(batch.collated_masks.any(1).sum()))


@pytest.mark.parametrize(("images", "divide_by"), [(4, 1), (4, 2), (6, 3), (5, 2)])
def test_a_subset_keeps_the_first_images_and_all_that_belongs_to_them(images: int, divide_by: int) -> None:
    batch = replace(collated([full_sample(image) for image in range(images)]), sample_ids=torch.arange(images) + 50)
    subset, kept = get_batch_subset(batch, divide_by), images // divide_by
    for name in ("global_crops", "global_crops_clean", "gram_teacher_crops", "local_crops", "masks"):
        whole, part = batch[f"collated_{name}"], subset[f"collated_{name}"]
        n_crops = len(whole) // images
        rows = [crop * images + image for crop in range(n_crops) for image in range(kept)]
        assert torch.equal(part, whole[rows])
    again = assemble(
        subset.collated_global_crops, torch.zeros(0), subset.collated_masks.numpy(), upperbound=0, global_batch_size=1
    )
    for name in ("mask_indices_list", "masks_weight", "n_masked_patches"):
        assert torch.equal(subset[name], again[name])
    assert subset.upperbound == batch.upperbound >= int(subset.n_masked_patches)
    assert subset.sample_ids is not None
    assert subset.sample_ids.tolist() == [50 + image for image in range(kept)]
    assert subset.batch_size == kept


def test_a_subset_of_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="divide_by 3 leaves none of 2 images"):
        get_batch_subset(collated([sample(0), sample(1)]), 3)


def test_a_subset_of_a_partly_masked_batch_is_refused() -> None:
    batch = collated([sample(image) for image in range(4)], local_batch_size=2)
    with pytest.raises(ValueError, match="local_batch_size"):
        get_batch_subset(batch, 2)
