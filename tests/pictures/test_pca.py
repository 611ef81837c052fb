from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from dinov3.contracts import Features
from dinov3.pictures.pca import pca_colours, pca_sheet


class HalfAndHalf(torch.nn.Module):
    """A backbone whose left patches differ from its right ones in one direction only."""

    def forward(self, x: torch.Tensor, is_training: bool) -> Features:
        assert is_training
        n, rows, cols = x.shape[0], x.shape[2] // 8, x.shape[3] // 8
        noise = 0.01 * torch.randn(n, rows, cols, 16, generator=torch.Generator().manual_seed(0))
        noise[:, :, cols // 2 :, 3] += 1.0
        patches = noise.flatten(1, 2)
        return Features(patches[:, 0], patches[:, :0], patches, patches, (rows, cols))


def test_the_strongest_difference_between_patches_is_the_first_colour() -> None:
    colours = pca_colours(HalfAndHalf(), torch.zeros(2, 3, 32, 64))
    assert colours.shape == (2, 3, 4, 8)
    left, right = colours[:, 0, :, :4], colours[:, 0, :, 4:]
    assert bool((left < 0.2).all() and (right > 0.8).all()) or bool((left > 0.8).all() and (right < 0.2).all())
    assert float(colours.min()) >= 0
    assert float(colours.max()) <= 1


def test_the_sheet_shows_each_image_above_its_features(tmp_path: Path) -> None:
    images = torch.zeros(3, 3, 64, 64)
    pca_sheet(HalfAndHalf(), images, [0.5] * 3, [0.2] * 3, tmp_path / "pca.png")
    picture = Image.open(tmp_path / "pca.png").convert("RGB")
    assert picture.size == (3 * 128 + 2 * 6, 2 * 128 + 6)
    assert picture.getpixel((64, 64)) == (128, 128, 128)  # the image: mean grey
    assert picture.getpixel((20, 200)) != picture.getpixel((110, 200))  # below: left and right differ
