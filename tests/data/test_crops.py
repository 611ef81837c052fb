from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dinov3.config.schema import Config
from dinov3.data.crops import (
    BOX_DRAWS,
    Box,
    CropGeometry,
    central_box,
    cut_and_resize,
    random_resized_box,
    window_offset,
)
from dinov3.data.torchvision_compat import import_torchvision

side = st.integers(1, 700)


def picture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Smooth structure with some noise, as photographs have."""
    rows, columns = np.mgrid[0:height, 0:width] / 20
    waves = [np.sin(rows * (c + 1)) + np.cos(columns + c * rows) for c in range(channels)]
    noise = np.random.default_rng(0).normal(0, 0.1, (height, width, channels))
    values = 127 + 50 * (np.stack(waves, 2) + noise)
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8))


@settings(max_examples=200, deadline=None)
@given(
    height=side,
    width=side,
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=BOX_DRAWS, max_size=BOX_DRAWS),
)
def test_a_box_lies_in_the_image(height: int, width: int, scale: list[float], draws: list[float]) -> None:
    box = random_resized_box(draws, height, width, (scale[0], scale[1]))
    assert box.height >= 1
    assert box.width >= 1
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Largest gap between two empirical distributions, in units that exceed 2.2 once in 15,000 times by chance."""
    both = np.sort(np.concatenate([a, b]))
    gap = np.abs(
        np.searchsorted(np.sort(a), both, "right") / len(a) - np.searchsorted(np.sort(b), both, "right") / len(b)
    )
    return float(gap.max() * np.sqrt(len(a) * len(b) / (len(a) + len(b))))


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(375, 500, (0.32, 1.0)), (375, 500, (0.05, 0.32)), (90, 400, (0.5, 1))]
)
def test_boxes_follow_torchvisions_law(height: int, width: int, scale: tuple[float, float]) -> None:
    n = 4000
    law = import_torchvision("torchvision.transforms").RandomResizedCrop
    image = torch.zeros(1, height, width)
    torch.manual_seed(0)  # torchvision draws from it
    theirs = np.array([law.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)])
    draws = np.random.default_rng(1).random((n, BOX_DRAWS)).tolist()
    ours = np.array([random_resized_box(row, height, width, scale) for row in draws])
    area = [boxes[:, 2] * boxes[:, 3] for boxes in (theirs, ours)]
    aspect = [boxes[:, 3] / boxes[:, 2] for boxes in (theirs, ours)]
    for pair in (area, aspect, (theirs[:, 0], ours[:, 0]), (theirs[:, 1], ours[:, 1])):
        assert kolmogorov_smirnov(*pair) < 2.2


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 100, Box(0, 0, 100, 100)),
        (300, 100, Box(83, 0, 133, 100)),  # 100 / (3/4) = 133 rows, of 300, from the middle
        (100, 300, Box(0, 83, 100, 133)),  # 100 * 4/3 columns
        (1, 50, Box(0, 24, 1, 1)),
    ],
)
def test_what_no_try_fits_is_cut_from_the_middle(height: int, width: int, expected: Box) -> None:
    assert central_box(height, width) == expected


def test_resizing_is_close_to_pillows_bicubic() -> None:
    image, differences = picture(300, 400), []
    for row in np.random.default_rng(0).random((40, BOX_DRAWS)).tolist():
        box = random_resized_box(row, 300, 400, (0.05, 1.0))
        out = torch.empty(96, 96, 3, dtype=torch.uint8)
        cut_and_resize(image, box, out)
        cut = Image.fromarray(image.numpy()[box.top : box.top + box.height, box.left : box.left + box.width])
        expected = np.asarray(cut.resize((96, 96), Image.Resampling.BICUBIC)).astype(int)
        differences.append(np.abs(out.numpy() - expected))
    assert np.mean(differences) < 0.1  # of 255
    assert np.mean(np.stack(differences) <= 1) > 0.999


def test_a_box_of_the_wanted_size_is_copied_exactly() -> None:
    image, out = picture(60, 80), torch.empty(20, 20, 3, dtype=torch.uint8)
    cut_and_resize(image, Box(7, 9, 20, 20), out)
    assert torch.equal(out, image[7:27, 9:29])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_the_fast_memory_format_does_not_change_a_pixel(channels: int) -> None:
    image, out = picture(50, 70, channels), torch.empty(24, 24, channels, dtype=torch.uint8)
    cut_and_resize(image, Box(3, 5, 40, 45), out)
    planar = image[3:43, 5:50].permute(2, 0, 1)[None].contiguous()
    expected = F.interpolate(planar, size=(24, 24), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    assert torch.equal(out, expected)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(16, 300), patch=st.sampled_from([4, 8, 14, 16]), data=st.data())
def test_a_window_lies_in_its_crop_on_the_patch_grid(size: int, patch: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, size))
    unit = st.floats(0, 1, exclude_max=True)
    for offset in window_offset([data.draw(unit), data.draw(unit)], size, window, patch):
        assert 0 <= offset <= size - window
        assert offset % patch == 0


def test_the_last_place_of_a_window_is_never_taken() -> None:
    """DINOv3 draws its offsets with an open end: of the nine places of 96 px in 224 px it takes the first eight."""
    places = {window_offset([draw, draw], 224, 96, 16) for draw in np.linspace(0, 1, 1000, endpoint=False)}
    assert sorted(places) == [(16 * place, 16 * place) for place in range(8)]


def test_half_of_the_local_crops_lie_in_each_global_crop() -> None:
    cfg = Config()
    cfg.crops.local_crops_number = 8
    geometry = CropGeometry.from_config(cfg)
    assert [geometry.parent_of(local) for local in range(8)] == [0] * 4 + [1] * 4


def test_local_crops_larger_than_the_global_ones_cannot_be_cut_out_of_them() -> None:
    cfg = Config()
    cfg.crops.localcrops_subset_of_globalcrops = True
    cfg.crops.global_crops_size, cfg.crops.local_crops_size = 96, 112
    with pytest.raises(
        ValueError, match=r"crops\.local_crops_size 112 cannot be cut out of crops\.global_crops_size 96"
    ):
        CropGeometry.from_config(cfg)
