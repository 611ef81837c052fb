from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor
from torch import Tensor

from dinov3.config.schema import Config, DatasetPart
from dinov3.data.loader import CropLoader
from dinov3.data.order import samples_at
from dinov3.data.sources import Source, open_dataset, parse_dataset
from dinov3.data.sources.mixture import order_of
from dinov3.pictures.token_sheet import unnormalised
from dinov3.survey import contact_sheet as module
from tests.train.tiny import tiny_config

SOURCE = parse_dataset("Synthetic:n=40:size=96")
Columns = dict[str, Tensor]


@pytest.fixture
def cfg() -> Config:
    return tiny_config(crops__local_crops_number=5, crops__grayscale_prob=0.0)


def drawn(cfg: Config, monkeypatch: pytest.MonkeyPatch, source: Source = SOURCE) -> tuple[Columns, list[str], str]:
    """What is given to the painter: columns, row labels, title."""
    seen: list[tuple[Columns, list[str], str]] = []
    monkeypatch.setattr(module, "token_sheet", lambda columns, rows, title, path: seen.append((columns, rows, title)))
    module.contact_sheet(cfg, source, Path("unused.png"))
    return seen[0]


def test_teacher_and_local_crops_are_those_of_the_runs_own_loader(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, rows, title = drawn(cfg, monkeypatch)
    shared = {"rank": 0, "world_size": 1, "device": torch.device("cpu"), "dtype": torch.float32}
    with CropLoader(cfg, SOURCE, position=0, **shared) as loader:  # type: ignore[arg-type]
        batch = next(loader)
    crops = unnormalised(batch.collated_global_crops, cfg.crops.rgb_mean, cfg.crops.rgb_std)
    assert torch.equal(columns["crop 1: teacher, 32 px"], crops[:6])
    assert torch.equal(columns["crop 2: teacher, 32 px"], crops[8:14])
    local = unnormalised(batch.collated_local_crops, cfg.crops.rgb_mean, cfg.crops.rgb_std)
    sheet = columns["5 local crops, 16 px"]
    assert torch.equal(sheet[2, :, :16, 17:33], local[8 + 2])  # crop 1 of image 2: second place of the first row
    assert torch.equal(sheet[2, :, 17:33, 17:33], local[4 * 8 + 2])  # crop 4: second place of the second row
    assert len(rows) == 6
    assert "seed 0" in title


def test_the_students_crop_is_the_teachers_with_the_masked_patches_tinted(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, _, _ = drawn(cfg, monkeypatch)
    shared = {"rank": 0, "world_size": 1, "device": torch.device("cpu"), "dtype": torch.float32}
    with CropLoader(cfg, SOURCE, position=0, **shared) as loader:  # type: ignore[arg-type]
        masks = next(loader).collated_masks
    for crop in range(2):
        teacher, student = columns[f"crop {crop + 1}: teacher, 32 px"], columns[f"crop {crop + 1}: student, masked"]
        tinted = (teacher != student).any(1)  # [6, 32, 32]
        patches = tinted.unflatten(1, (4, 8)).unflatten(3, (4, 8)).sum((2, 4)).flatten(1)  # [6, 16] of 64 pixels
        assert torch.equal(patches > 32, masks[8 * crop : 8 * crop + 6])


@pytest.mark.parametrize("inside", [False, True])
def test_the_box_on_the_image_is_what_the_clean_crop_shows(
    cfg: Config, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.crops.localcrops_subset_of_globalcrops = inside
    columns, _, _ = drawn(cfg, monkeypatch)
    _, indices = samples_at(np.arange(6), len(SOURCE), cfg.train.seed)
    whole, clean = columns["image: crops 1 and 2, local crops"], columns["crop 1: clean, 32 px"]
    colour = torch.tensor(ImageColor.getrgb(module.GLOBAL_COLOURS[0])) / 255
    for n, index in enumerate(indices.tolist()):
        there = ((whole[n] - colour[:, None, None]).abs().amax(0) < 0.01).nonzero()
        (top, left), (bottom, right) = there.amin(0).tolist(), there.amax(0).tolist()
        scale = module.SIDE / 96
        image = torch.from_numpy(np.asarray(SOURCE.read(index))).permute(2, 0, 1)[None].float() / 255
        box = image[..., round(top / scale) : round(bottom / scale), round(left / scale) : round(right / scale)]
        expected = F.interpolate(box, (32, 32), mode="bicubic", antialias=True)[0]
        off = min((expected - clean[n]).abs().mean(), (expected.flip(-1) - clean[n]).abs().mean())
        assert off < 0.04, f"image {n}: {off}"


def test_a_gram_teachers_crops_have_their_own_column(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.crops.gram_teacher_crops_size = 64
    columns, _, _ = drawn(cfg, monkeypatch)
    assert columns["crop 2: Gram teacher, 64 px"].shape == (6, 3, 64, 64)


def test_of_a_mixture_the_images_are_those_the_run_begins_with(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_dataset(
        [DatasetPart("Synthetic:n=40:size=32:seed=1", 1), DatasetPart("Synthetic:n=40:size=32:seed=2", 3)]
    )
    columns, names, _ = drawn(cfg, monkeypatch, source)
    with CropLoader(
        cfg, source, position=0, rank=0, world_size=1, device=torch.device("cpu"), dtype=torch.float32
    ) as loader:
        batch = next(loader)
    _, indices = order_of(source).samples_at(np.arange(6), cfg.train.seed)
    assert names == [Path(source.name(index)).name for index in indices.tolist()]
    assert indices.tolist() != samples_at(np.arange(6), len(source), cfg.train.seed)[1].tolist()
    crops = unnormalised(batch.collated_global_crops, cfg.crops.rgb_mean, cfg.crops.rgb_std)
    assert torch.equal(columns["crop 1: teacher, 32 px"], crops[:6])
    for n, index in enumerate(indices.tolist()):
        picture = Image.fromarray(np.asarray(source.read(index))).resize((module.SIDE,) * 2, Image.Resampling.BICUBIC)
        whole = columns["image: crops 1 and 2, local crops"][n]
        off = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - whole).abs().median()
        assert off < 0.02, f"image {n}: {off}"


def test_no_local_crops_have_no_column(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.crops.local_crops_number = 0
    assert not any("local crops," in name for name in drawn(cfg, monkeypatch)[0])


def test_one_channel_is_shown_in_gray(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.student.in_chans, cfg.crops.rgb_mean, cfg.crops.rgb_std = 1, [0.5], [0.25]
    for name, tiles in drawn(cfg, monkeypatch)[0].items():
        assert tiles.shape[1] == 3
        if "teacher" in name:
            assert torch.equal(tiles[:, 0], tiles[:, 2])


def test_the_picture_is_a_png_with_all_columns(cfg: Config, tmp_path: Path) -> None:
    module.contact_sheet(cfg, SOURCE, tmp_path / "sheet.png", rows=2)
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width > 2.5 * height
