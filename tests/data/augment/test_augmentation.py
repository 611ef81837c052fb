from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from dinov3.config.schema import Config
from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS, Augmentation, CropParams, crop_params
from dinov3.data.crops import CropGeometry

IMAGES = 6000


def params_of(cfg: Config, images: int = IMAGES) -> CropParams:
    geometry = CropGeometry.from_config(cfg)
    draws = np.random.default_rng(0).random((geometry.views, images, PHOTOMETRIC_DRAWS))
    return crop_params(draws, Augmentation.from_config(cfg), geometry)


def rates(values: np.ndarray, views: int) -> np.ndarray:
    """Share of images, for the first global, the second global and all local crops."""
    per_view = values.reshape(views, -1).mean(1)
    return np.array([per_view[0], per_view[1], per_view[2:].mean()])


@pytest.mark.parametrize(
    ("preset", "blur", "solarize"),
    [("official", (0.0, 0.9, 0.5), 0.2), ("published", (1.0, 0.1, 0.5), 0.2), ("histology", (0.0, 0.0, 0.0), 0.0)],
)
def test_presets_apply_operations_as_often_as_they_say(
    cfg: Config, preset: str, blur: tuple[float, float, float], solarize: float
) -> None:
    cfg.crops.augmentation = preset  # type: ignore[assignment]
    params, views = params_of(cfg), 2 + cfg.crops.local_crops_number
    gray = 0.0 if preset == "histology" else 0.2
    for values, expected in (
        (params.sigma > 0, blur),
        (params.solarized, (0.0, solarize, 0.0)),
        (params.jittered, (0.8, 0.8, 0.8)),
        (params.gray, (gray, gray, gray)),
        (params.mirrored, (0.5, 0.5, 0.5)),
        (params.upside_down, (0.5 * (preset == "histology"),) * 3),
        (params.turns > 0, (0.75 * (preset == "histology"),) * 3),
    ):
        p = np.array(expected)
        assert np.all(np.abs(rates(values, views) - p) <= 5 * np.sqrt(p * (1 - p) / IMAGES))


def test_official_blur_is_the_published_one_with_its_probabilities_inverted() -> None:
    cfg = Config()
    cfg.crops.augmentation = "official"
    official = Augmentation.from_config(cfg)
    cfg.crops.augmentation = "published"
    published = Augmentation.from_config(cfg)
    for key in ("blur_prob_global_1", "blur_prob_global_2", "blur_prob_local"):
        assert getattr(official, key) == pytest.approx(1 - getattr(published, key))


def test_factors_fill_their_ranges_evenly(cfg: Config) -> None:
    params = params_of(cfg)
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = (params.factors[:, column] - low) / (high - low)
        assert values.min() >= 0
        assert values.max() <= 1
        assert np.abs(np.histogram(values, bins=10, range=(0, 1))[0] / len(values) - 0.1).max() < 0.01
    sigma = params.sigma[params.sigma > 0]
    assert 0.1 <= sigma.min() < 0.11
    assert 1.99 < sigma.max() <= 2.0


def test_every_order_of_the_jitter_is_equally_likely(cfg: Config) -> None:
    orders = [tuple(row) for row in params_of(cfg).order.tolist()]
    counts = np.array([orders.count(order) for order in permutations(range(4))])
    assert counts.sum() == len(orders)
    expected = len(orders) / 24
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi-squared, 23 degrees of freedom: 1 in 25,000


def test_stain_is_normalised_as_often_as_asked_whatever_the_order_of_the_jitter(cfg: Config) -> None:
    cfg.crops.augmentation, cfg.crops.stain_prob = "histology", 0.3
    params = params_of(cfg)
    n = len(params.stained)
    assert abs(params.stained.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
    for first in range(4):
        some = params.stained[params.order[:, 0] == first]
        assert abs(some.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(some))
    assert params.stain_target.shape == (n, 6)
    cfg.crops.stain_prob = None
    before = params_of(cfg)
    assert not before.stained.any()
    assert np.array_equal(before.order, params.order)


def test_a_large_jitter_never_makes_a_factor_negative(cfg: Config) -> None:
    cfg.crops.brightness = 3.0
    assert params_of(cfg, 200).factors[:, 0].min() >= 0


def test_given_keys_override_the_preset(cfg: Config) -> None:
    cfg.crops.augmentation = "histology"
    cfg.crops.brightness, cfg.crops.rot90, cfg.crops.blur_sigma = 0.33, False, [0.5, 0.6]
    cfg.crops.blur_prob_local = 1.0
    settings = Augmentation.from_config(cfg)
    assert (settings.brightness, settings.rot90, settings.blur_sigma) == (0.33, False, (0.5, 0.6))
    assert settings.contrast == 0.1


def test_histology_moves_colours_little(cfg: Config) -> None:
    cfg.crops.augmentation = "histology"
    settings = Augmentation.from_config(cfg)
    moved = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    assert all(value <= limit for value, limit in zip(moved, (0.1, 0.1, 0.1, 0.03), strict=True))


def test_an_unknown_preset_names_the_choices(cfg: Config) -> None:
    cfg.crops.augmentation = "offical"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="'offical' is not one of published, official, histology"):
        Augmentation.from_config(cfg)


def test_no_flips_when_they_are_off(cfg: Config) -> None:
    cfg.crops.horizontal_flips = False
    assert not params_of(cfg, 100).mirrored.any()


def test_a_shared_jitter_is_the_same_for_all_crops_of_an_image_and_differs_between_images(cfg: Config) -> None:
    cfg.crops.share_color_jitter = True
    params, views = params_of(cfg, 50), 2 + cfg.crops.local_crops_number
    for values in (params.factors, params.order, params.jittered, params.gray):
        by_view = values.reshape(views, 50, -1)
        assert (by_view == by_view[:1]).all()
        assert len(np.unique(by_view[0], axis=0)) > 1
    assert len(np.unique(params.mirrored.reshape(views, 50), axis=0)) > 1  # the rest stays each crop's own


def test_windows_of_global_crops_are_oriented_like_them(cfg: Config) -> None:
    cfg.crops.localcrops_subset_of_globalcrops = True
    cfg.crops.augmentation = "histology"
    params, n_local = params_of(cfg, 50), cfg.crops.local_crops_number
    for values in (params.mirrored, params.upside_down, params.turns):
        by_view = values.reshape(2 + n_local, 50)
        assert (by_view[2 : 2 + n_local // 2] == by_view[0]).all()
        assert (by_view[2 + n_local // 2 :] == by_view[1]).all()
    assert len(np.unique(params.factors.reshape(2 + n_local, -1), axis=0)) == 2 + n_local  # colours stay their own


def test_colour_operations_are_off_unless_there_are_three_channels(cfg: Config) -> None:
    cfg.student.in_chans = 5
    params = params_of(cfg, 200)
    assert not (params.jittered | params.gray | params.solarized).any()
    assert (params.sigma > 0).any()
