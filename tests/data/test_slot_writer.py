from __future__ import annotations

import numpy as np
import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data.bad_samples import BadSample
from dinov3.data.crops import random_resized_box
from dinov3.data.errors import DataError, TooManyBadSamples
from dinov3.data.order import samples_at
from dinov3.data.randomness import generator
from dinov3.data.slot_writer import SampleWriter
from tests.data.fakes import Pictures


def filled(
    cfg: Config, source: Pictures, position: int = 0, rank: int = 0, world: int = 1, chunk: int = 8
) -> torch.Tensor:
    writer = SampleWriter.from_config(cfg, source, rank, world)
    slot = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)
    for start in range(0, writer.batch_size, chunk):
        writer.fill(slot, position, start, min(start + chunk, writer.batch_size))
    return slot


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_a_slot_does_not_depend_on_who_writes_which_part(cfg: Config, chunk: int) -> None:
    assert torch.equal(filled(cfg, Pictures(), 16, chunk=chunk), filled(cfg, Pictures(), 16))


def assert_joined(part: SampleWriter, slots: list[torch.Tensor], whole: SampleWriter, slot: torch.Tensor) -> None:
    """What ``part`` wrote into ``slots``, one after the other, is what ``whole`` wrote into ``slot``."""
    for name in ("global_crops", "local_crops", "draws", "masks"):
        pieces = [getattr(part.resolution_at(0).layout, name).within(piece) for piece in slots]
        expected = getattr(whole.resolution_at(0).layout, name).within(slot)
        assert torch.equal(torch.cat(pieces, dim=1), expected), name


def test_two_processes_write_the_halves_of_what_one_writes(cfg: Config) -> None:
    whole = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    whole_slot = filled(cfg, Pictures(), 24)
    cfg.train.batch_size_per_gpu //= 2
    half = SampleWriter.from_config(cfg, Pictures(), 0, 2)
    slots = [filled(cfg, Pictures(), 24, rank, 2) for rank in range(2)]
    assert_joined(half, slots, whole, whole_slot)


def test_parts_of_a_step_are_joined_what_one_large_batch_is(cfg: Config) -> None:
    cfg.train.batch_size_per_gpu = 16
    whole = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    whole_slot = filled(cfg, Pictures(), 32)
    cfg.train.batch_size_per_gpu, cfg.train.gradient_accumulation_steps = 4, 2
    slots, ids = [], []
    for rank in range(2):
        writer = SampleWriter.from_config(cfg, Pictures(), rank, 2)
        assert (writer.global_batch, [writer.batch_at(32, n) for n in (0, 1, 2)]) == (16, [(32, 0), (32, 1), (48, 0)])
        for part in range(2):
            slots.append(torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8))
            writer.fill(slots[-1], 32, 0, 4, part=part)
            ids += writer.positions(32, part).tolist()
    assert ids == list(range(32, 48)), "a process holds neighbouring images"
    assert_joined(writer, slots, whole, whole_slot)


def test_an_image_looks_different_in_the_next_epoch(cfg: Config) -> None:
    cfg.train.batch_size_per_gpu = 50
    writer = SampleWriter.from_config(cfg, Pictures(50), 0, 1)
    first, second = (
        writer.resolution_at(0).layout.global_crops.within(filled(cfg, Pictures(50), position)) for position in (0, 50)
    )
    orders = [samples_at(np.arange(start, start + 50), 50, 0)[1].tolist() for start in (0, 50)]
    for index in range(50):
        assert not torch.equal(first[0, orders[0].index(index)], second[0, orders[1].index(index)])


def test_more_local_crops_leave_the_others_as_they_were(cfg: Config) -> None:
    few = (
        SampleWriter.from_config(cfg, Pictures(), 0, 1)
        .resolution_at(0)
        .layout.local_crops.within(filled(cfg, Pictures()))
    )
    cfg.crops.local_crops_number = 7
    many = (
        SampleWriter.from_config(cfg, Pictures(), 0, 1)
        .resolution_at(0)
        .layout.local_crops.within(filled(cfg, Pictures()))
    )
    assert torch.equal(many[:4], few)


def test_windows_are_cut_out_of_their_global_crop_without_resizing(cfg: Config) -> None:
    cfg.crops.localcrops_subset_of_globalcrops = True
    writer = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    slot = filled(cfg, Pictures())
    parents, windows = (
        writer.resolution_at(0).layout.global_crops.within(slot),
        writer.resolution_at(0).layout.local_crops.within(slot),
    )
    for local in range(4):
        for image in range(8):
            parent = parents[local // 2, image]
            places = [(r, c) for r in range(0, 17, 8) for c in range(0, 17, 8)]
            assert any(torch.equal(parent[r : r + 16, c : c + 16], windows[local, image]) for r, c in places)


def test_crops_for_the_gram_teacher_show_the_same_box(cfg: Config) -> None:
    cfg.crops.gram_teacher_crops_size = 64
    writer = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    slot = filled(cfg, Pictures())
    assert writer.resolution_at(0).layout.gram_crops is not None
    large = writer.resolution_at(0).layout.gram_crops.within(slot).flatten(0, 1).permute(0, 3, 1, 2).float()
    small = writer.resolution_at(0).layout.global_crops.within(slot).flatten(0, 1).permute(0, 3, 1, 2).float()
    shrunk = torch.nn.functional.interpolate(large, (32, 32), mode="bicubic", antialias=True)
    assert (shrunk - small).abs().mean() < 2
    others = torch.roll(small, 1, dims=0)
    assert (shrunk - others).abs().mean() > 10


def test_the_first_global_box_is_drawn_from_the_samples_own_key(cfg: Config) -> None:
    cfg.crops.global_crops_size = 32
    _, indices = samples_at(np.arange(1), 50, 0)
    index = int(indices[0])
    image = torch.from_numpy(np.asarray(Pictures().read(index)))
    draws = generator(0, "crops", 0, index).random((6, 35))[0, :22].tolist()
    box = random_resized_box(draws, image.shape[0], image.shape[1], (0.32, 1.0))
    cut = image[box.top : box.top + box.height, box.left : box.left + box.width].permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(cut, (32, 32), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    writer = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    assert torch.equal(writer.resolution_at(0).layout.global_crops.within(filled(cfg, Pictures()))[0, 0], expected)


def test_unreadable_images_are_replaced_by_the_same_others_every_time(cfg: Config) -> None:
    bad = frozenset(range(0, 50, 2))
    assert torch.equal(filled(cfg, Pictures(bad=bad)), filled(cfg, Pictures(bad=bad), chunk=1))
    writer = SampleWriter.from_config(cfg, Pictures(bad=bad), 0, 1)
    slot = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)
    reported = writer.fill(slot, 0, 0, 8)
    assert reported
    assert {sample.reason for sample in reported} == {"on purpose"}
    _, indices = samples_at(np.arange(8), 50, 0)
    first_tries = [BadSample(f"picture-{i}", "on purpose") for i in indices.tolist() if i in bad]
    assert [sample for sample in reported if sample in first_tries] == first_tries


def test_a_replaced_image_leaves_the_other_samples_alone(cfg: Config) -> None:
    _, indices = samples_at(np.arange(8), 50, 0)
    writer = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    whole = writer.resolution_at(0).layout.global_crops.within(filled(cfg, Pictures()))
    holed = writer.resolution_at(0).layout.global_crops.within(filled(cfg, Pictures(bad=frozenset({int(indices[3])}))))
    for image in range(8):
        assert torch.equal(whole[:, image], holed[:, image]) == (image != 3)


def test_data_without_a_readable_image_is_given_up(cfg: Config) -> None:
    with pytest.raises(
        TooManyBadSamples, match=r"10 images in a row were unreadable, the last picture-\d+: on purpose"
    ):
        filled(cfg, Pictures(bad=frozenset(range(50))))


def test_images_of_five_channels_need_a_model_of_five_channels(cfg: Config) -> None:
    with pytest.raises(DataError, match=r"set student\.in_chans=5"):
        filled(cfg, Pictures(channels=5))
    cfg.student.in_chans = 5
    assert filled(cfg, Pictures(channels=5)).numel() > 0
