from __future__ import annotations

import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data.crops import CropGeometry
from dinov3.data.slots import ALIGNMENT, SlotLayout


@pytest.mark.parametrize("gram", [None, 48])
@pytest.mark.parametrize("n_local", [0, 4])
def test_parts_fill_a_slot_without_overlap(cfg: Config, gram: int | None, n_local: int) -> None:
    cfg.crops.gram_teacher_crops_size, cfg.crops.local_crops_number = gram, n_local
    layout = SlotLayout.make(CropGeometry.from_config(cfg), 5)
    parts = [layout.global_crops, layout.local_crops, layout.gram_crops, layout.draws, layout.masks]
    flat = torch.zeros(layout.nbytes, dtype=torch.uint8)
    for part in parts:
        if part is not None:
            assert part.offset % ALIGNMENT == 0
            flat[part.offset : part.offset + part.nbytes] += 1
    assert flat.max() == 1
    assert layout.nbytes % ALIGNMENT == 0
    assert layout.crop_bytes == layout.draws.offset


def test_a_part_shares_the_slots_memory(cfg: Config) -> None:
    layout = SlotLayout.make(CropGeometry.from_config(cfg), 3)
    flat = torch.zeros(layout.nbytes, dtype=torch.uint8)
    layout.draws.within(flat)[1, 2, 3] = 0.5
    layout.global_crops.within(flat)[1, 2, 31, 31, 2] = 7
    again = layout.draws.within(flat)
    assert again.dtype == torch.float64
    assert again[1, 2, 3] == 0.5
    assert int(flat.to(torch.int64)[layout.global_crops.nbytes - 1]) == 7


def test_the_crops_lie_first_so_that_they_travel_alone(cfg: Config) -> None:
    layout = SlotLayout.make(CropGeometry.from_config(cfg), 8)
    expected = 8 * 3 * (2 * 32 * 32 + 4 * 16 * 16)
    assert layout.crop_bytes == expected
