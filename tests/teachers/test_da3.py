"""The DA3 teacher and the student look at the same places of the same picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dinov3.config.derived import da3_input_size
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS
from dinov3.data.crops import BOX_DRAWS, GLOBAL_CROPS, random_resized_box
from dinov3.data.loader import CropLoader
from dinov3.data.order import rank_positions, samples_at
from dinov3.data.randomness import generator
from dinov3.models.da3 import PATCH, VARIANTS, DA3Spec
from dinov3.teachers.da3 import Da3Teacher

SIDE, IMAGES, CELLS = 240, 8, 4  # pixels of the picture; images a batch; patches of the student along a side
CPU = torch.device("cpu")
COLOURS_OFF = ("color_jitter_prob", "grayscale_prob", "blur_prob_global_1", "blur_prob_global_2", "blur_prob_local")
MODES = [("resize_input", None), ("interpolate_tokens", None), ("interpolate_tokens", 84), ("interpolate_tokens", 112)]


class Ramp:
    """One picture whose red is the column and whose green is the row of each pixel."""

    def __len__(self) -> int:
        return IMAGES

    def read(self, index: int) -> NDArray[np.uint8]:
        rows, columns = np.mgrid[0:SIDE, 0:SIDE]
        return np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)

    def label(self, index: int) -> int | None:
        return None

    def name(self, index: int) -> str:
        return "ramp"

    def fingerprint(self) -> str:
        return "Ramp"


class MeanColour(nn.Module):
    """An encoder whose tokens are the mean colours of its patches."""

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, PATCH).flatten(2).mT  # [N, P, 3]


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "small", DA3Spec(32, 4, 2, alt_start=2))


@pytest.fixture
def cfg() -> Config:
    """A student with 4 x 4 patches of 8 px; colours as they are, in [0, 1]."""
    cfg = Config()
    cfg.train.batch_size_per_gpu, cfg.train.num_workers = IMAGES, 0
    cfg.student.patch_size = 8
    cfg.crops.global_crops_size, cfg.crops.local_crops_size, cfg.crops.local_crops_number = 8 * CELLS, 16, 2
    cfg.crops.rgb_mean, cfg.crops.rgb_std = [0.0] * 3, [1.0] * 3
    cfg.crops.solarize_prob_global_2 = 0.0
    for name in COLOURS_OFF:
        setattr(cfg.crops, name, 0.0)
    cfg.da3.enabled, cfg.da3.random_init, cfg.da3.variant, cfg.da3.dtype = True, True, "small", "fp32"
    return cfg


def teacher_of(cfg: Config, model: nn.Module | None = None) -> Da3Teacher:
    teacher = Da3Teacher(cfg, CPU)
    if model is not None:
        teacher.encoder, teacher.embed_dim = model, 3
    return teacher


def one_batch(cfg: Config) -> CropBatch:
    with CropLoader(cfg, Ramp(), position=0, rank=0, world_size=1, device=CPU, dtype=torch.float32) as loader:
        return next(loader)


def centres_from_boxes(cfg: Config, batch: CropBatch) -> tuple[Tensor, Tensor]:
    """Where the student's patches lie in the picture: centres ``[G*B, P, 2]`` (x, y) and sizes ``[G*B, 1, 2]``, px."""
    epochs, indices = samples_at(rank_positions(0, IMAGES, 0, 1), IMAGES, cfg.train.seed)
    views = GLOBAL_CROPS + cfg.crops.local_crops_number
    cells = (np.arange(CELLS) + 0.5) / CELLS
    centres, sizes = [], []
    for crop in range(GLOBAL_CROPS):
        for epoch, index in zip(epochs.tolist(), indices.tolist(), strict=True):
            rng = generator(cfg.train.seed, "crops", epoch, index)
            draws = rng.random((views, BOX_DRAWS + PHOTOMETRIC_DRAWS))[crop]
            low, high = cfg.crops.global_crops_scale
            box = random_resized_box(draws[:BOX_DRAWS].tolist(), SIDE, SIDE, (low, high))
            across = 1 - cells if draws[BOX_DRAWS] < 0.5 else cells  # mirrored
            x, y = np.meshgrid(box.left + across * box.width, box.top + cells * box.height)
            centres.append(np.stack([x, y], axis=-1).reshape(-1, 2))
            sizes.append([[box.width / CELLS, box.height / CELLS]])
    return torch.tensor(np.array(centres)), torch.tensor(sizes)


def coordinates(tokens: Tensor) -> Tensor:
    """Centres (x, y) in px of the picture that mean colours ``[N, P, 3]`` tell; a pixel's middle is half a pixel on."""
    return tokens[..., :2].double() * 255 + 0.5


@pytest.mark.parametrize(("mode", "size"), MODES)
def test_teacher_and_student_patches_lie_at_the_place_the_box_says(cfg: Config, mode: str, size: int | None) -> None:
    cfg.da3.grid_mode, cfg.da3.teacher_size = mode, size  # type: ignore[assignment]
    batch = one_batch(cfg)
    assert batch.collated_global_crops_clean is not None
    assert batch.collated_global_crops_clean.shape[-1] == da3_input_size(cfg, 8 * CELLS)
    expected, patch = centres_from_boxes(cfg, batch)
    student = coordinates(F.avg_pool2d(batch.collated_global_crops, 8).flatten(2).mT)
    teacher = coordinates(teacher_of(cfg, MeanColour()).tokens(batch.collated_global_crops_clean, (CELLS, CELLS)))
    assert float(((student - expected) / patch).abs().max()) < 0.1
    own = da3_input_size(cfg, 8 * CELLS) // PATCH
    # half a patch is allowed; interpolation cannot look beyond the outermost centres of a coarser grid (28 px: 2 x 2)
    bound = 0.1 if own >= CELLS else 0.5 * CELLS / own
    assert float(((teacher - expected) / patch).abs().max()) < bound
    assert float(((teacher - student) / patch).abs().max()) < bound


@pytest.mark.parametrize("turns", [False, True])
def test_clean_crops_are_turned_and_flipped_as_the_students_are(cfg: Config, turns: bool) -> None:
    cfg.crops.rot90 = cfg.crops.vertical_flips = turns
    batch = one_batch(cfg)
    clean = batch.collated_global_crops_clean
    assert clean is not None
    back = F.interpolate(clean, size=8 * CELLS, mode="area")
    assert float((back - batch.collated_global_crops).abs().max()) < 0.04
    assert float((back.flip(-1) - batch.collated_global_crops).abs().amax((1, 2, 3)).min()) > 0.1, "a flip would show"


def test_colours_change_for_the_student_only(cfg: Config) -> None:
    bare = one_batch(cfg)
    for name in COLOURS_OFF:
        setattr(cfg.crops, name, None)
    changed = one_batch(cfg)
    assert torch.equal(bare.collated_global_crops_clean, changed.collated_global_crops_clean)  # type: ignore[arg-type]
    assert not torch.equal(bare.collated_global_crops, changed.collated_global_crops)


def test_another_grid_is_refused_unless_tokens_are_interpolated(cfg: Config) -> None:
    crops = torch.zeros(2, 3, 84, 84)
    with pytest.raises(ValueError, match=r"84 x 84 px as 6 x 6 patches, the student has 4 x 4: .* 56 x 56 px, or set"):
        teacher_of(cfg).tokens(crops, (4, 4))
    with pytest.raises(ValueError, match=r"as 6 x 6 patches, the student has 4 x 9"):  # the same number of patches
        teacher_of(cfg).tokens(crops, (4, 9))
    cfg.da3.grid_mode = "interpolate_tokens"
    assert teacher_of(cfg).tokens(crops, (4, 4)).shape == (2, 16, 32)


def test_a_constant_picture_stays_constant_through_interpolation(cfg: Config) -> None:
    cfg.da3.grid_mode = "interpolate_tokens"
    crops = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(2, 3, 84, 84)
    tokens = teacher_of(cfg, MeanColour()).tokens(crops, (4, 4))
    torch.testing.assert_close(tokens, torch.tensor([0.1, 0.5, 0.9]).expand(2, 16, 3))


def test_an_encoder_that_returns_more_than_patches_is_refused(cfg: Config) -> None:
    class WithClassToken(MeanColour):
        def forward(self, images: Tensor) -> Tensor:
            tokens = super().forward(images)
            return torch.cat([tokens[:, :1], tokens], dim=1)

    with pytest.raises(ValueError, match=r"returned tokens \[2, 17, 3\], expected \[2, 16, 3\]"):
        teacher_of(cfg, WithClassToken()).tokens(torch.zeros(2, 3, 56, 56), (4, 4))


def test_tokens_of_an_image_do_not_depend_on_its_neighbours_and_take_no_gradient(cfg: Config) -> None:
    images = torch.randn(4, 3, 56, 56, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = teacher_of(cfg)
    tokens = teacher.tokens(images, (4, 4))
    assert not tokens.requires_grad
    assert not any(p.requires_grad for p in teacher.encoder.parameters())
    for n in range(4):
        torch.testing.assert_close(teacher.tokens(images[n : n + 1], (4, 4))[0], tokens[n], rtol=0, atol=1e-6)
