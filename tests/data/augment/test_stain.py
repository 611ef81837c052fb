from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.data.augment.augmentation import PRESETS, Augmentation
from dinov3.data.augment.stain import (
    FROM_CONES,
    FROM_OPPONENT,
    GLASS,
    MOST_STRETCH,
    TO_CONES,
    TO_OPPONENT,
    mixed,
    normalize_stain,
    statistics,
)

STANDARD = (*PRESETS["histology"]["stain_mean"], *PRESETS["histology"]["stain_std"])
TARGET = torch.tensor([STANDARD], dtype=torch.float32)


def tissue(n: int = 3, size: int = 48, seed: int = 0) -> Tensor:
    """``[n, 3, size, size]``: pink and violet stroma around glass, another tint each."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size
    images = []
    for _ in range(n):
        nuclei = 0.5 + 0.5 * np.sin(20 * rows * rng.uniform(0.5, 1.5)) * np.cos(17 * columns + rng.uniform(0, 6))
        eosin, haematoxylin = np.array([0.85, 0.55, 0.7]), np.array([0.4, 0.25, 0.55])
        image = nuclei[:, :, None] * haematoxylin + (1 - nuclei[:, :, None]) * eosin
        image = image * rng.uniform(0.8, 1.1, 3) + rng.normal(0, 0.02, (size, size, 3))
        image[(rows - 0.5) ** 2 + (columns - 0.5) ** 2 > 0.2] = 0.95
        images.append(image.clip(0, 1))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().contiguous()


def from_the_definition(image: NDArray[np.float64], target: tuple[float, ...]) -> NDArray[np.float64]:
    """``image [h, w, 3]`` in [0, 1], pixel by pixel, as the paper has it, glass left out."""
    cones, opponent = np.array(TO_CONES), np.array(TO_OPPONENT)
    out, coordinates, places = image.copy(), [], []
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            pixel = image[row, column]
            if pixel.min() < np.float32(GLASS):
                coordinates.append(opponent @ np.log(np.maximum(cones @ (255 * pixel), 1)))
                places.append((row, column))
    values = np.array(coordinates)
    mean, std = values.mean(0), values.std(0)
    for place, value in zip(places, values, strict=True):
        moved = (value - mean) * np.array(target[3:]) / std + np.array(target[:3])
        out[place] = np.clip(np.linalg.inv(cones) @ np.exp(np.linalg.inv(opponent) @ moved) / 255, 0, 1)
    return out


def test_the_batched_form_equals_the_definition_pixel_by_pixel() -> None:
    crops = tissue()
    expected = [from_the_definition(crop.permute(1, 2, 0).double().numpy(), STANDARD) for crop in crops]
    normalize_stain(crops, TARGET.expand(3, -1))
    off = (crops.permute(0, 2, 3, 1).double().numpy() - np.stack(expected)).__abs__()
    assert off.max() < 2e-3
    assert off.mean() < 1e-4


def test_tissue_has_the_target_statistics_afterwards() -> None:
    target = torch.tensor([[8.3, -0.08, 0.02, 0.25, 0.04, 0.015]])  # gentle: nothing leaves [0, 1]
    crops = tissue()
    where = crops.amin(1, keepdim=True) < GLASS
    normalize_stain(crops, target.expand(3, -1))
    mean, std, _ = statistics(mixed(mixed(crops * 255, TO_CONES).clamp(min=1).log(), TO_OPPONENT), where)
    assert (mean[..., 0, 0] - target[:, :3]).abs().max() < 2e-3
    assert (std[..., 0, 0] - target[:, 3:]).abs().max() < 2e-3


def test_two_tints_of_one_tissue_come_out_alike() -> None:
    one = tissue(1)
    other = one.clone()
    where = (one.amin(1, keepdim=True) < 0.8).expand_as(one)
    other[where] = (one * torch.tensor([0.8, 0.95, 1.1]).reshape(1, 3, 1, 1)).clamp(0, 0.84)[where]
    before = (one - other).abs().mean()
    normalize_stain(one, TARGET)
    normalize_stain(other, TARGET)
    assert (one - other).abs().mean() < 0.3 * before


def test_glass_keeps_its_colour() -> None:
    crops = tissue()
    glass = (crops.amin(1, keepdim=True) >= GLASS).expand_as(crops)
    before = crops.clone()
    normalize_stain(crops, TARGET.expand(3, -1))
    assert torch.equal(crops[glass], before[glass])
    assert not torch.equal(crops[~glass], before[~glass])


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_crops_of_one_colour_are_finite_and_stay_of_one_colour(value: float) -> None:
    crop = torch.full((1, 3, 20, 20), value)
    normalize_stain(crop, TARGET)
    assert bool(crop.isfinite().all())
    assert float(crop.amin()) >= 0
    assert float(crop.amax()) <= 1
    assert float((crop - crop[:, :, :1, :1]).abs().max()) < 1e-5
    if value == 1:
        assert bool((crop == 1).all())


def test_a_speck_on_glass_is_left_alone() -> None:
    crop = torch.ones(1, 3, 40, 40)
    crop[:, :, :3, :3] = 0.4  # 9 of 1600 pixels
    before = crop.clone()
    normalize_stain(crop, TARGET)
    assert torch.equal(crop, before)


def test_noise_is_not_blown_up_to_a_stain() -> None:
    rng = torch.Generator().manual_seed(0)
    crop = (0.5 + 0.002 * torch.randn(1, 3, 40, 40, generator=rng)).clamp(0, 1)
    whole = torch.ones(1, 1, 40, 40, dtype=torch.bool)

    def spread(x: Tensor) -> Tensor:
        return statistics(mixed(mixed(x * 255, TO_CONES).clamp(min=1).log(), TO_OPPONENT), whole)[1]

    before = spread(crop)
    normalize_stain(crop, TARGET)
    assert bool((spread(crop) <= 1.05 * MOST_STRETCH * before).all())


def test_a_crop_comes_out_the_same_in_any_stack() -> None:
    together, alone = tissue(5), tissue(5)
    normalize_stain(together, TARGET.expand(5, -1))
    for n in range(5):
        own = alone[n : n + 1].clone()
        normalize_stain(own, TARGET)
        assert torch.equal(own[0], together[n])


def test_the_way_back_is_the_inverse() -> None:
    for there, back in ((TO_CONES, FROM_CONES), (TO_OPPONENT, FROM_OPPONENT)):
        np.testing.assert_allclose(np.array(there) @ np.array(back), np.eye(3), atol=1e-12)
    x = tissue(1)
    assert (mixed(mixed(x, TO_CONES), FROM_CONES) - x).abs().max() < 1e-5


def test_targets_come_from_the_config_and_other_channels_have_no_stain(cfg: Config) -> None:
    assert Augmentation.from_config(cfg).stain_prob == 0
    cfg.crops.augmentation, cfg.crops.stain_prob, cfg.crops.stain_std = "histology", 0.7, [0.5, 0.1, 0.02]
    settings = Augmentation.from_config(cfg)
    assert (settings.stain_prob, settings.stain_std) == (0.7, (0.5, 0.1, 0.02))
    assert settings.stain_mean == STANDARD[:3]
    cfg.student.in_chans = 5
    assert Augmentation.from_config(cfg).stain_prob == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_colours() -> None:
    here, there = tissue(), tissue().cuda()
    normalize_stain(here, TARGET.expand(3, -1))
    normalize_stain(there, TARGET.expand(3, -1).cuda())
    assert (here - there.cpu()).abs().max() < 1e-4
