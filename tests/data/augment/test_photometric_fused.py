from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data.augment import photometric, photometric_fused
from dinov3.data.augment.augmentation import CropParams
from dinov3.data.augment.photometric_fused import Function, apply, changed, upright
from tests.data.augment.test_photometric import normalization, nothing, pictures, random_params, untouched

PLAIN: tuple[Function, Function] = (changed, upright)  # the fused source, not compiled


def assert_same(params: CropParams, size: int = 24, *, clean_size: int | None = None, tolerance: float = 4e-6) -> None:
    crops = pictures(len(params.gray), size)
    expected, expected_clean = photometric.render(crops, params, nothing(), clean_size=clean_size)
    ours, clean = apply(crops, params, nothing(), PLAIN, clean_size=clean_size)
    assert (ours - expected).abs().max() <= tolerance
    if clean_size is not None:
        assert expected_clean is not None
        assert clean is not None
        torch.testing.assert_close(clean, expected_clean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("operation", range(4))
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_each_operation_of_the_jitter_is_the_plain_one(operation: int, factor: float) -> None:
    params = replace(untouched(6), jittered=np.ones(6, dtype=bool))
    params.factors[:, 3] = 0
    params.factors[:, operation] = factor - 1 if operation == 3 else factor
    assert_same(params)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_the_jitter_follows_each_crops_own_order(order: tuple[int, ...]) -> None:
    params = replace(untouched(6), jittered=np.array([True] * 5 + [False]))
    params.factors[:] = (1.3, 0.7, 1.2, 0.07)
    params.order[:] = order
    params.order[0] = (0, 1, 2, 3)
    assert_same(params, tolerance=2e-5)  # hue enlarges the rounding of what is nearly gray


def test_gray_blur_and_solarisation_are_the_plain_ones() -> None:
    yes = np.array([True, False, True, False, True, False])
    assert_same(replace(untouched(6), gray=yes))
    assert_same(replace(untouched(6), solarized=yes), tolerance=0)
    assert_same(replace(untouched(6), sigma=np.array([0.1, 0.0, 0.7, 0.0, 2.0, 1.0])))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
def test_one_gather_is_flips_and_then_turns(turns: int, mirrored: bool, upside_down: bool) -> None:
    params = replace(
        untouched(3),
        mirrored=np.array([mirrored, False, True]),
        upside_down=np.array([upside_down, True, False]),
        turns=np.array([turns, 0, 3], dtype=np.int8),
    )
    assert_same(params, clean_size=24, tolerance=0)


@pytest.mark.parametrize("size", [7, 24, 31])
def test_the_whole_chain_is_the_plain_one(cfg: Config, size: int) -> None:
    assert_same(random_params(6, cfg), size, clean_size=14, tolerance=2e-5)


def test_images_that_are_not_rgb_are_only_oriented_and_blurred() -> None:
    params = replace(untouched(4), mirrored=np.array([True, False] * 2), sigma=np.array([0.0, 1.0, 2.0, 0.0]))
    crops = pictures(4, channels=5)
    plain = photometric.Normalization((0.5,) * 5, (0.2,) * 5, torch.float32, torch.device("cpu"))
    expected, _ = photometric.render(crops, params, plain)
    torch.testing.assert_close(apply(crops, params, plain, PLAIN)[0], expected, rtol=0, atol=4e-6)


def test_stained_crops_and_no_crops_take_the_plain_way(cfg: Config) -> None:
    stained = replace(untouched(6), stained=np.ones(6, dtype=bool), stain_target=np.full((6, 6), 0.5))
    assert_same(stained, tolerance=0)
    assert apply(pictures()[:0], untouched(0), nothing(), PLAIN)[0].shape == (0, 3, 24, 24)


def test_a_lower_precision_is_rounded_once(cfg: Config) -> None:
    crops, params = pictures(36), random_params(6, cfg)
    full, _ = apply(crops, params, normalization(), PLAIN)
    half, _ = apply(crops, params, normalization(torch.bfloat16), PLAIN)
    assert torch.equal(full.bfloat16(), half)


def test_the_compiler_takes_both_functions_whole(cfg: Config) -> None:
    torch._dynamo.reset()
    crops, params = pictures(36), random_params(6, cfg)
    expected, clean = apply(crops, params, normalization(), PLAIN, clean_size=24)
    photometric_fused.compiled.cache_clear()
    ours, ours_clean = apply(crops, params, normalization(), photometric_fused.compiled("aot_eager"), clean_size=24)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert clean is not None
    assert ours_clean is not None
    assert torch.equal(ours_clean, clean)


@pytest.mark.nightly  # minutes: all of the jitter at every place is one C++ function
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_code_agrees_with_the_plain_operators(cfg: Config) -> None:
    torch._dynamo.reset()
    crops, params = pictures(36), random_params(6, cfg)
    expected, clean = photometric.render(crops, params, normalization(), clean_size=24)
    ours, ours_clean = photometric_fused.render(crops, params, normalization(), clean_size=24)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours_clean, clean)
