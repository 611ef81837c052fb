from __future__ import annotations

import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.bad_samples import BadSample, BadSampleLog
from dinov3.data.errors import DataError, TooManyBadSamples
from dinov3.data.loader import CropLoader
from dinov3.data.sources.source import Source
from tests.data.fakes import Pictures, Poisonous

CPU = torch.device("cpu")


def loader(
    cfg: Config, source: Source | None = None, position: int = 0, workers: int = 0, **options: Any
) -> CropLoader:
    cfg.train.num_workers = workers
    shared = {"rank": 0, "world_size": 1, "device": CPU, "dtype": torch.float32, **options}
    return CropLoader(cfg, Pictures() if source is None else source, position=position, **shared)


def batches(cfg: Config, n: int = 3, **options: Any) -> list[CropBatch]:
    with loader(cfg, **options) as stream:
        return [next(stream) for _ in range(n)]


def sha256(batch: CropBatch) -> str:
    digest = hashlib.sha256()
    for name, value in vars(batch).items():
        content = value.contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
        digest.update(name.encode() + content)
    return digest.hexdigest()


@pytest.fixture
def everything(cfg: Config) -> Config:
    """All kinds of crops at once."""
    cfg.crops.gram_teacher_crops_size, cfg.crops.global_crops_clean, cfg.crops.global_crops_clean_size = 48, True, 28
    cfg.train.batch_size_per_gpu = 10  # not a multiple of a worker's chunk
    return cfg


@pytest.fixture
def several(everything: Config) -> Config:
    """All kinds of crops at several resolutions: another one from step to step."""
    crops = everything.crops
    crops.global_crops_size, crops.local_crops_size = [32, 48, 40], [16, 16, 24]
    crops.gram_teacher_crops_size, crops.global_crops_clean_size = [48, 64, 64], None
    return everything


@pytest.mark.parametrize(
    ("workers", "start_method"), [(1, "fork"), (3, "fork"), (1, "forkserver"), (3, "forkserver"), (2, "spawn")]
)
def test_batches_are_bit_identical_for_any_workers(everything: Config, workers: int, start_method: str) -> None:
    alone = [sha256(batch) for batch in batches(everything, 7)]
    assert len(set(alone)) == 7
    assert [sha256(batch) for batch in batches(everything, 7, workers=workers, start_method=start_method)] == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_goes_on_with_the_same_batches(everything: Config, workers: int) -> None:
    whole = [sha256(batch) for batch in batches(everything, 6)]
    assert [sha256(batch) for batch in batches(everything, 3, position=30, workers=workers)] == whole[3:]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_several_resolutions_are_bit_identical_for_any_workers_and_after_a_resume(
    several: Config, workers: int
) -> None:
    whole = batches(several, 14)
    assert {batch.collated_global_crops.shape[-1] for batch in whole} == {32, 40, 48}
    hashes = [sha256(batch) for batch in whole]
    assert len(set(hashes)) == 14
    assert [sha256(batch) for batch in batches(several, 14, workers=workers)] == hashes
    assert [sha256(batch) for batch in batches(several, 8, position=60, workers=workers)] == hashes[6:]


def test_a_batch_has_the_shapes_of_its_resolution(several: Config) -> None:
    pairs = {32: (16, 48), 48: (16, 64), 40: (24, 64)}
    for batch in batches(several, 6):
        size = batch.collated_global_crops.shape[-1]
        local, gram = pairs[size]
        assert batch.collated_local_crops.shape == (40, 3, local, local)
        assert batch["collated_gram_teacher_crops"].shape == (20, 3, gram, gram)
        assert batch["collated_global_crops_clean"].shape == (20, 3, size, size)
        assert batch.collated_masks.shape == (20, (size // 8) ** 2)
        assert int(batch.n_masked_patches) == batch.upperbound


def test_da3s_clean_crops_fit_the_grid_of_every_resolution(several: Config) -> None:
    several.da3.enabled, several.crops.global_crops_clean_size = True, None
    for batch in batches(several, 6):
        assert batch["collated_global_crops_clean"].shape[-1] == batch.collated_global_crops.shape[-1] // 8 * 14


def test_processes_share_out_the_batch_of_one(everything: Config) -> None:
    alone = batches(everything)
    everything.train.batch_size_per_gpu //= 2
    shared = [batches(everything, rank=rank, world_size=2) for rank in range(2)]
    for whole, *halves in zip(alone, *shared, strict=True):
        for name, value in vars(whole).items():
            if name.startswith("collated"):
                parts = [half[name].unflatten(0, (-1, 5)) for half in halves]
                assert torch.equal(torch.cat(parts, dim=1).flatten(0, 1), value), name
        assert torch.equal(torch.cat([half.sample_ids for half in halves]), whole.sample_ids)
        assert sum(int(half.n_masked_patches) for half in halves) == whole.upperbound
        assert {half.global_batch_size for half in halves} == {10}
        assert all(int(half.n_masked_patches) <= half.upperbound for half in halves)
    assert len({half.upperbound for share in shared for half in share}) == 1


def test_a_batch_has_the_promised_shapes(everything: Config) -> None:
    (batch,) = batches(everything, 1, dtype=torch.bfloat16)
    assert batch.collated_global_crops.shape == (20, 3, 32, 32)
    assert batch.collated_local_crops.shape == (40, 3, 16, 16)
    assert batch.collated_global_crops_clean is not None
    assert batch.collated_gram_teacher_crops is not None
    assert batch.collated_global_crops_clean.shape == (20, 3, 28, 28)
    assert batch.collated_gram_teacher_crops.shape == (20, 3, 48, 48)
    assert batch.collated_masks.shape == (20, 16)
    assert {batch[f"collated_{name}"].dtype for name in ("global_crops", "local_crops")} == {torch.bfloat16}
    assert int(batch.n_masked_patches) == batch.upperbound == len(batch.mask_indices_list) == len(batch.masks_weight)
    assert (batch.batch_size, batch.global_batch_size) == (10, 10)


def test_position_and_waiting_time_are_kept(cfg: Config) -> None:
    with loader(cfg, position=40, rank=1, world_size=3) as stream:
        assert (stream.position, stream.wait_seconds) == (40, 0.0)
        batch = next(stream)
        assert batch.sample_ids is not None
        assert batch.sample_ids.tolist() == list(range(48, 56))  # the second 8 of the 24 that start at 40
        assert stream.position == 64
        waited = stream.wait_seconds
        assert waited > 0
        next(iter(stream))
        assert stream.wait_seconds > waited


def plain(cfg: Config) -> Config:
    """Nothing happens to colours."""
    for key in ("color_jitter_prob", "grayscale_prob", "solarize_prob_global_2"):
        setattr(cfg.crops, key, 0.0)
    cfg.crops.blur_prob_global_1 = cfg.crops.blur_prob_global_2 = cfg.crops.blur_prob_local = 0.0
    return cfg


def test_clean_crops_are_the_global_crops_before_their_colours_change(cfg: Config) -> None:
    cfg.crops.global_crops_clean = True
    (augmented,) = batches(cfg, 1)
    (bare,) = batches(plain(cfg), 1)
    assert bare.collated_global_crops_clean is not None
    assert augmented.collated_global_crops_clean is not None
    assert torch.equal(bare.collated_global_crops, bare.collated_global_crops_clean)
    assert torch.equal(augmented.collated_global_crops_clean, bare.collated_global_crops_clean)
    assert not torch.equal(augmented.collated_global_crops, augmented.collated_global_crops_clean)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("da3", [False, True])
def test_clean_crops_come_when_someone_wants_them(cfg: Config, clean: bool, da3: bool) -> None:
    cfg.crops.global_crops_clean, cfg.da3.enabled = clean, da3
    (batch,) = batches(cfg, 1)
    assert (batch.collated_global_crops_clean is not None) == (clean or da3)


def test_stain_normalisation_changes_what_is_seen_and_not_the_clean_crops(cfg: Config) -> None:
    cfg.crops.global_crops_clean = True
    (before,) = batches(plain(cfg), 1)
    cfg.crops.stain_prob = 1.0
    (after,) = batches(cfg, 1)
    assert torch.equal(before["collated_global_crops_clean"], after["collated_global_crops_clean"])
    for name in ("collated_global_crops", "collated_local_crops"):
        changed = (before[name] != after[name]).flatten(1).any(1)
        assert bool(changed.all()), name


def test_gram_crops_are_distorted_unless_that_is_off(cfg: Config) -> None:
    cfg.crops.gram_teacher_crops_size, cfg.crops.global_crops_clean = 32, True
    (distorted,) = batches(cfg, 1)
    assert distorted.collated_gram_teacher_crops is not None
    assert torch.equal(distorted.collated_gram_teacher_crops, distorted.collated_global_crops)
    cfg.crops.gram_teacher_no_distortions = True
    (pure,) = batches(cfg, 1)
    assert pure.collated_gram_teacher_crops is not None
    assert pure.collated_global_crops_clean is not None
    assert torch.equal(pure.collated_gram_teacher_crops, pure.collated_global_crops_clean)


def test_blur_shows_the_student_and_a_larger_gram_teacher_the_same(cfg: Config) -> None:
    plain(cfg).crops.blur_prob_global_1 = 1.0
    cfg.crops.blur_sigma, cfg.crops.gram_teacher_crops_size = [1.99, 2.0], 64
    (batch,) = batches(cfg, 1)
    cfg.crops.blur_prob_global_1 = 0.0
    (sharp,) = batches(cfg, 1)
    assert batch.collated_gram_teacher_crops is not None
    shrunk = torch.nn.functional.interpolate(
        batch.collated_gram_teacher_crops[:8], (32, 32), mode="bicubic", antialias=True
    )
    blurred, unblurred = batch.collated_global_crops[:8], sharp.collated_global_crops[:8]
    assert (shrunk - blurred).abs().mean() < 0.5 * (shrunk - unblurred).abs().mean()


def test_no_global_generator_is_drawn_from_or_seeded_here(cfg: Config) -> None:
    cfg.crops.localcrops_subset_of_globalcrops = True
    cfg.ibot.mask_random_circular_shift = True

    def states() -> list[bytes]:
        numpys = np.random.get_state(legacy=False)["state"]["key"]
        return [repr(random.getstate()).encode(), numpys.tobytes(), torch.get_rng_state().numpy().tobytes()]

    before = states()
    batches(cfg, 2, source=Pictures(bad=frozenset({1, 5, 9})))
    assert states() == before


def test_workers_draw_from_no_global_generator(cfg: Config) -> None:
    alone = [sha256(batch) for batch in batches(cfg)]
    assert [sha256(batch) for batch in batches(cfg, source=Poisonous(), workers=1, start_method="fork")] == alone


def test_unreadable_images_are_replaced_and_reported_whatever_the_workers(cfg: Config, tmp_path: Path) -> None:
    source, reports = Pictures(bad=frozenset({3, 7})), []
    cfg.data.max_bad_frac = 0.2
    for workers in (0, 3):
        heard: list[BadSample] = []
        hashes = [sha256(batch) for batch in batches(cfg, 14, source=source, workers=workers, on_bad=heard.append)]
        reports.append((hashes, heard))
    assert reports[0] == reports[1]
    assert {sample.name for sample in reports[0][1]} == {"picture-3", "picture-7"}
    log = BadSampleLog(tmp_path / "bad_samples.jsonl")
    batches(cfg, 14, source=source, on_bad=log)
    names = [json.loads(line)["name"] for line in log.path.read_text().splitlines()]
    assert sorted(names) == ["picture-3", "picture-7"]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_end_the_stream(cfg: Config, workers: int) -> None:
    with loader(cfg, Pictures(bad=frozenset(range(25))), workers=workers) as stream:
        with pytest.raises(TooManyBadSamples, match=r"data\.max_bad_frac is 0\.01: mend the data or raise it"):
            list(itertools.islice(stream, 20))
        assert stream.position < 8 * 20


@pytest.mark.parametrize("workers", [0, 2])
def test_data_without_one_readable_image_end_the_stream(cfg: Config, workers: int) -> None:
    with (
        loader(cfg, Pictures(bad=frozenset(range(50))), workers=workers) as stream,
        pytest.raises(TooManyBadSamples, match="10 images in a row"),
    ):
        next(stream)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_the_wrong_number_of_channels_are_a_data_error(cfg: Config, workers: int) -> None:
    with (
        loader(cfg, Pictures(channels=5), workers=workers) as stream,
        pytest.raises(DataError, match=r"student\.in_chans=5"),
    ):
        next(stream)


def test_an_empty_dataset_is_a_data_error(cfg: Config) -> None:
    with pytest.raises(DataError, match="no images"):
        loader(cfg, Pictures(0))


def test_means_must_be_one_a_channel(cfg: Config) -> None:
    cfg.student.in_chans = 5
    with pytest.raises(DataError, match=r"crops\.rgb_mean has 3 values, student\.in_chans is 5"):
        loader(cfg, Pictures(channels=5))
    cfg.crops.rgb_mean, cfg.crops.rgb_std = [0.5] * 5, [0.2] * 5
    assert next(loader(cfg, Pictures(channels=5))).collated_global_crops.shape == (16, 5, 32, 32)


def test_fewer_images_than_a_batch_come_several_times_with_different_crops(cfg: Config) -> None:
    (batch,) = batches(cfg, 1, source=Pictures(2))
    crops = batch.collated_local_crops.flatten(1)
    assert len(torch.unique(crops, dim=0)) == len(crops)


def test_single_channel_models_get_single_channel_crops(cfg: Config) -> None:
    cfg.student.in_chans, cfg.crops.rgb_mean, cfg.crops.rgb_std = 1, [0.5], [0.25]
    (batch,) = batches(cfg, 1)
    assert batch.collated_global_crops.shape == (16, 1, 32, 32)


def test_no_local_crops_are_possible(cfg: Config) -> None:
    cfg.crops.local_crops_number = 0
    (batch,) = batches(cfg, 1)
    assert batch.collated_local_crops.shape[0] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 3])
def test_a_gpu_gets_the_same_batches(everything: Config, workers: int) -> None:
    here = batches(everything, 8)
    there = [batch.to(CPU) for batch in batches(everything, 8, workers=workers, device=torch.device("cuda", 0))]
    for ours, theirs in zip(here, there, strict=True):
        for name, value in vars(ours).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                assert (value - theirs[name]).abs().mean() < 1e-5, name
            elif isinstance(value, Tensor):
                assert torch.equal(value, theirs[name]), name
        assert ours.upperbound == theirs.upperbound
