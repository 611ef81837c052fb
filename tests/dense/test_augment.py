from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3.dense.augment import Augment, nearest, resized_pixels, view


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Class c has the gray value 40 c, so a view shows whether image and truth still agree."""
    truth = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((16, 16))).astype(np.int32)
    return np.repeat((40 * truth)[:, :, None], 3, 2).astype(np.uint8), truth


@pytest.mark.parametrize(
    "rules", [Augment((20, 24), 0), Augment((40, 60), 0, short_side=32, ratio=(0.5, 2.0), rotation=5)]
)
def test_image_and_truth_stay_together_and_nothing_is_blended(rules: Augment) -> None:
    pixels, truth = pair()
    for seed in range(10):
        image, labels = view(pixels, truth, rules, np.random.default_rng(seed))
        assert tuple(image.shape[1:]) == tuple(labels.shape) == rules.crop
        assert set(labels.unique().tolist()) <= set(range(7))
        said = (image[0] * 255 / 40).round()
        known = labels > 0
        assert (said[known] == labels[known]).float().mean() > 0.8  # edges are blended in the image


def test_what_lies_outside_is_ignored() -> None:
    pixels, truth = pair()
    _, labels = view(pixels, truth, Augment((64, 64), fill=255), np.random.default_rng(0))
    assert int((labels == 255).sum()) == 64 * 64 - 32 * 48


def test_brightness_changes_the_image_only() -> None:
    pixels, truth = pair()
    dark = Augment((32, 48), 0, brightness=(0.5, 0.5))
    image, labels = view(pixels, truth, dark, np.random.default_rng(1))
    assert float(image.max()) == pytest.approx(240 / 255 / 2, abs=1e-3)
    assert labels.max() == 6


def test_nearest_keeps_numbers_and_its_own_size() -> None:
    truth = torch.randint(0, 9, (7, 11))
    assert torch.equal(nearest(truth, (7, 11)), truth)
    assert torch.equal(nearest(truth, (14, 22))[::2, ::2], truth)
    assert resized_pixels(np.zeros((4, 6, 3), dtype=np.uint8), (8, 12)).shape == (3, 8, 12)
