from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.data.augment import photometric
from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS, Augmentation, CropParams, crop_params
from dinov3.data.augment.photometric import TAPS, Normalization, blur_weights, oriented_by, recolored_by, render
from dinov3.data.crops import CropGeometry
from dinov3.data.torchvision_compat import import_torchvision

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(n: int = 6, size: int = 24, channels: int = 3, seed: int = 0) -> Tensor:
    """``[n, size, size, channels]`` uint8, some of it black, white, gray or pure."""
    pixels = torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    pixels[0, :4], pixels[0, 4:8], pixels[1, :5, :, 1:] = 0, 255, 0
    pixels[-1] = pixels[-1, :, :, :1]
    return pixels


def unit(crops: Tensor) -> Tensor:
    return crops.permute(0, 3, 1, 2).contiguous().float() / 255


def untouched(n: int) -> CropParams:
    """Parameters of crops to which nothing happens."""
    no, order = np.zeros(n, dtype=bool), np.tile(np.arange(4, dtype=np.int8), (n, 1))
    turns, stain = np.zeros(n, dtype=np.int8), np.zeros((n, 6))
    return CropParams(no, no, turns, no, np.ones((n, 4)), order, no, np.zeros(n), no, no, stain)


def random_params(n_images: int, cfg: Config, seed: int = 0) -> CropParams:
    geometry = CropGeometry.from_config(cfg)
    draws = np.random.default_rng(seed).random((geometry.views, n_images, PHOTOMETRIC_DRAWS))
    return crop_params(draws, Augmentation.from_config(cfg), geometry)


def normalization(dtype: torch.dtype = torch.float32) -> Normalization:
    return Normalization(MEAN, STD, dtype, CPU)


def nothing() -> Normalization:
    return Normalization((0.0,) * 3, (1.0,) * 3, torch.float32, CPU)


FACTORS = [0.6, 0.83, 1.0, 1.2, 1.4, 0.0]
TURNS = [-0.1, -0.03, 0.0, 0.02, 0.1, 0.5]


@pytest.mark.parametrize(
    ("column", "reference", "factors", "tolerance"),
    [
        (0, "adjust_brightness", FACTORS, 1e-6),
        (1, "adjust_contrast", FACTORS, 1e-5),  # the mean is rounded to 1/65536, so that it adds up in any order
        (2, "adjust_saturation", FACTORS, 1e-6),
        (3, "adjust_hue", TURNS, 2e-6),
    ],
)
def test_jitter_equals_torchvisions(column: int, reference: str, factors: list[float], tolerance: float) -> None:
    functional = import_torchvision("torchvision.transforms.v2.functional")
    crops, params = unit(pictures()), untouched(6)
    params.factors[:, 3] = 0
    params.factors[:, column] = factors
    params = replace(params, jittered=np.ones(6, dtype=bool))
    expected = torch.stack([getattr(functional, reference)(c, f) for c, f in zip(crops, factors, strict=True)])
    assert (recolored_by(params, crops.clone()) - expected).abs().max() <= tolerance


def test_grayscale_equals_torchvisions() -> None:
    functional = import_torchvision("torchvision.transforms.v2.functional")
    crops = unit(pictures())
    ours = recolored_by(replace(untouched(6), gray=np.ones(6, dtype=bool)), crops.clone())
    assert (ours - functional.rgb_to_grayscale(crops, num_output_channels=3)).abs().max() <= 1e-6


def test_blur_equals_torchvisions_with_nine_taps() -> None:
    functional = import_torchvision("torchvision.transforms.v2.functional")
    crops, sigma = unit(pictures()), np.array([0.1, 0.3, 0.7, 1.1, 1.6, 2.0])
    ours = recolored_by(replace(untouched(6), sigma=sigma), crops.clone())
    expected = torch.stack([functional.gaussian_blur(c, [9, 9], [s, s]) for c, s in zip(crops, sigma, strict=True)])
    assert (ours - expected).abs().max() <= 1e-6


def test_solarisation_equals_torchvisions_exactly() -> None:
    functional = import_torchvision("torchvision.transforms.v2.functional")
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    ours = recolored_by(replace(untouched(1), solarized=np.ones(1, dtype=bool)), unit(levels))
    expected = functional.solarize(unit(levels), 128 / 255)
    assert torch.equal(ours, expected)
    assert (ours[0, 0].flatten()[127:129] * 255).round().tolist() == [127, 127]  # 128 is the first to be inverted


def test_normalisation_equals_torchvisions() -> None:
    functional = import_torchvision("torchvision.transforms.v2.functional")
    crops = pictures()
    ours, _ = render(crops, untouched(6), normalization())
    assert torch.equal(ours, functional.normalize(unit(crops), MEAN, STD))


def test_the_whole_chain_equals_torchvisions_in_each_crops_own_order(cfg: Config) -> None:
    functional = import_torchvision("torchvision.transforms.v2.functional")
    crops = pictures(36)
    params = random_params(6, cfg)
    ours, _ = render(crops, params, normalization())
    adjust = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    for i, crop in enumerate(unit(crops)):
        x = functional.horizontal_flip(crop) if params.mirrored[i] else crop
        if params.jittered[i]:
            for op in params.order[i]:
                x = adjust[op](x, float(params.factors[i, op]))
        x = functional.rgb_to_grayscale(x, num_output_channels=3) if params.gray[i] else x
        x = functional.gaussian_blur(x, [9, 9], [params.sigma[i]] * 2) if params.sigma[i] > 0 else x
        x = functional.solarize(x, 128 / 255) if params.solarized[i] else x
        # 2e-5 in [0, 1]: contrast's mean; hue turns it into a little more where a crop is nearly gray
        difference = (ours[i] - functional.normalize(x, MEAN, STD)).abs() * torch.tensor(STD)[:, None, None]
        assert difference.max() <= 1e-3
        assert difference.mean() <= 2e-5


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
def test_orientation_is_flips_then_counter_clockwise_turns(turns: int, mirrored: bool, upside_down: bool) -> None:
    crops = pictures(2).permute(0, 3, 1, 2).contiguous()
    params = replace(
        untouched(2),
        mirrored=np.array([mirrored, False]),
        upside_down=np.array([upside_down, False]),
        turns=np.array([turns, 0], dtype=np.int8),
    )
    expected = crops[0].numpy()
    expected = expected[:, :, ::-1] if mirrored else expected
    expected = expected[:, ::-1] if upside_down else expected
    expected = np.rot90(expected, turns, axes=(1, 2))
    ours = oriented_by(params, crops.clone())
    assert np.array_equal(ours[0].numpy(), expected)
    assert torch.equal(ours[1], crops[1])


@pytest.mark.parametrize("size", [7, 24, 31])
def test_a_crop_does_not_depend_on_its_neighbours_or_on_how_the_stack_is_cut(
    cfg: Config, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, params = pictures(36, size), random_params(6, cfg)
    together, _ = render(crops, params, normalization())
    for i in range(36):
        alone, _ = render(crops[i : i + 1], params[i : i + 1], normalization())
        assert torch.equal(alone[0], together[i])
    monkeypatch.setattr(photometric, "CHUNK_PIXELS", 5 * size * size)
    monkeypatch.setattr(photometric, "BAND_PIXELS", 3 * size)
    assert torch.equal(render(crops, params, normalization())[0], together)


def test_rendering_leaves_its_input_alone(cfg: Config) -> None:
    crops = pictures(36)
    before = crops.clone()
    render(crops, random_params(6, cfg), normalization(), clean_size=24)
    assert torch.equal(crops, before)


def test_clean_crops_have_the_orientation_and_nothing_else(cfg: Config) -> None:
    crops, params = pictures(36), random_params(6, cfg)
    only_oriented = replace(untouched(36), mirrored=params.mirrored)
    _, clean = render(crops, params, normalization(), clean_size=24)
    assert clean is not None
    assert torch.equal(clean, render(crops, only_oriented, normalization())[0])
    assert torch.equal(clean, render(crops, params, normalization(), photometric=False)[0])


def test_clean_crops_of_another_size_are_antialiased_bicubic() -> None:
    crops = pictures(6, 24)
    _, clean = render(crops, untouched(6), nothing(), clean_size=14)
    expected = torch.nn.functional.interpolate(unit(crops), (14, 14), mode="bicubic", antialias=True).clamp(0, 1)
    assert clean is not None
    assert torch.equal(clean, expected)


def test_there_are_no_clean_crops_unless_asked_for() -> None:
    assert render(pictures(), untouched(6), normalization())[1] is None


def test_colours_are_changed_before_they_are_normalised_and_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def listen(owner: object, name: str) -> None:
        wrapped: Callable[..., object] = getattr(owner, name)

        def called(*args: object, **kwargs: object) -> object:
            calls.append(name)
            return wrapped(*args, **kwargs)

        monkeypatch.setattr(owner, name, called)

    for name in ("_grayscale", "_blur", "_solarize"):
        listen(photometric, name)
    listen(Normalization, "write")
    yes = np.ones(6, dtype=bool)
    render(pictures(), replace(untouched(6), gray=yes, sigma=np.ones(6), solarized=yes), normalization())
    assert calls == ["_grayscale", "_blur", "_solarize", "write"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_output_is_the_rounded_float32_result(dtype: torch.dtype, cfg: Config) -> None:
    crops, params = pictures(36), random_params(6, cfg)
    full, _ = render(crops, params, normalization())
    cast, clean = render(crops, params, normalization(dtype), clean_size=20)
    assert torch.equal(cast, full.to(dtype))
    assert clean is not None
    assert clean.dtype == dtype


def test_other_numbers_of_channels_are_only_turned_and_blurred() -> None:
    crops, params = pictures(6, 16, 5), replace(untouched(6), sigma=np.full(6, 1.0), mirrored=np.ones(6, dtype=bool))
    five = Normalization((0.5,) * 5, (0.25,) * 5, torch.float32, CPU)
    out, _ = render(crops, params, five)
    assert out.shape == (6, 5, 16, 16)
    assert torch.isfinite(out).all()


def test_blur_weights_sum_to_one_and_fall_to_the_sides() -> None:
    weights = blur_weights(np.array([0.1, 1.0, 2.0]))
    assert weights.shape == (3, TAPS)
    assert np.allclose(weights.sum(1), 1)
    assert (np.diff(weights[:, : TAPS // 2 + 1]) >= 0).all()


def test_no_crops_give_no_crops() -> None:
    empty, _ = render(pictures()[:0], untouched(0), normalization())
    assert empty.shape == (0, 3, 24, 24)


def test_parameters_of_a_slice_are_the_slice_of_the_parameters(cfg: Config) -> None:
    params = random_params(3, cfg)
    for f in fields(CropParams):
        assert np.array_equal(getattr(params[2:5], f.name), getattr(params, f.name)[2:5])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_crops(cfg: Config) -> None:
    device = torch.device("cuda")
    crops, params = pictures(36, 32), random_params(6, cfg)
    here = render(crops, params, normalization(), clean_size=20)
    there = render(crops.to(device), params, Normalization(MEAN, STD, torch.float32, device), clean_size=20)
    for ours, theirs in zip(here, there, strict=True):
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs.cpu()).abs().mean() < 1e-5
