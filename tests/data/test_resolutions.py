from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data.resolutions import Resolutions
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.slots import SlotLayout
from tests.data.fakes import Pictures


@pytest.fixture
def several(cfg: Config) -> Config:
    """Three pairs of sizes, one of them five times as frequent as the others together."""
    cfg.crops.global_crops_size, cfg.crops.local_crops_size = [32, 48, 48], [16, 16, 24]
    cfg.crops.gram_teacher_crops_size = [48, 64, 64]
    cfg.crops.global_local_crop_pairs_ratios = [0.5, 5.0, 0.5]
    return cfg


def sizes_of(resolutions: Resolutions, positions: range) -> list[tuple[int, int, int | None]]:
    geometries = [resolutions.at(position).geometry for position in positions]
    return [(g.global_size, g.local_size, g.gram_size) for g in geometries]


def test_every_pair_comes_as_often_as_its_ratio_says(several: Config) -> None:
    n = 3000
    drawn = sizes_of(Resolutions.from_config(several, 8), range(0, 8 * n, 8))
    pairs = [(32, 16, 48), (48, 16, 64), (48, 24, 64)]
    assert set(drawn) == set(pairs)
    for pair, share in zip(pairs, (1 / 12, 10 / 12, 1 / 12), strict=True):
        assert abs(drawn.count(pair) / n - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_draws_follow_the_seed_and_are_independent_of_each_other(several: Config) -> None:
    several.crops.global_local_crop_pairs_ratios = 1.0
    drawn = sizes_of(Resolutions.from_config(several, 8), range(0, 8 * 2000, 8))
    assert drawn == sizes_of(Resolutions.from_config(several, 8), range(0, 8 * 2000, 8))
    repeats = np.mean([a == b for a, b in pairwise(drawn)])
    assert abs(repeats - 1 / 3) < 0.05
    several.train.seed = 1
    assert sizes_of(Resolutions.from_config(several, 8), range(0, 8 * 2000, 8)) != drawn


def test_all_processes_and_all_parts_of_a_step_draw_the_same(several: Config) -> None:
    whole = SampleWriter.from_config(several, Pictures(), 0, 1)
    several.train.batch_size_per_gpu, several.train.gradient_accumulation_steps = 2, 2
    for rank in range(2):
        part = SampleWriter.from_config(several, Pictures(), rank, 2)
        assert part.global_batch == whole.global_batch
        for number in range(40):
            position, _ = part.batch_at(0, number)
            assert position == 8 * (number // 2)
            assert part.resolution_at(position).geometry == whole.resolution_at(position).geometry


def test_a_slot_holds_the_largest_batch_and_nothing_more(several: Config) -> None:
    resolutions = Resolutions.from_config(several, 8)
    layouts = [SlotLayout.make(choice.geometry, 8).nbytes for choice in resolutions.choices]
    assert resolutions.slot_bytes == max(layouts) > min(layouts)


def test_a_size_that_is_given_once_goes_with_all(several: Config) -> None:
    several.crops.local_crops_size, several.crops.gram_teacher_crops_size = 16, None
    drawn = sizes_of(Resolutions.from_config(several, 8), range(0, 800, 8))
    assert set(drawn) == {(32, 16, None), (48, 16, None)}


def test_masks_cover_the_grid_of_the_steps_own_crops(several: Config) -> None:
    writer = SampleWriter.from_config(several, Pictures(), 0, 1)
    slot = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)
    seen = set()
    for position in range(0, 400, 8):
        resolution = writer.resolution_at(position)
        seen.add(resolution.geometry.grid)
        slot.fill_(255)  # what an earlier, larger batch left
        writer.fill(slot, position, 0, 8)
        masks = resolution.layout.masks.within(slot)
        assert masks.shape[2] == resolution.geometry.grid**2
        assert int(masks.sum()) == resolution.upperbound
    assert seen == {4, 6}
