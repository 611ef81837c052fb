from __future__ import annotations

import numpy as np
import pytest

from dinov3.survey.channel_moments import PIXELS, ChannelMoments


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_moments_are_those_of_all_pixels_when_images_have_one_size(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 20, 30, channels), dtype=np.uint8)
    moments = ChannelMoments.empty(channels)
    for image in images:
        moments.add(image)
    pixels = images.reshape(-1, channels) / 255
    np.testing.assert_allclose(moments.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, pixels.std(0), rtol=1e-10)


def test_a_large_image_counts_as_much_as_a_small_one() -> None:
    moments = ChannelMoments.empty(1)
    moments.add(np.zeros((300, 400, 1), dtype=np.uint8))
    moments.add(np.full((2, 2, 1), 255, dtype=np.uint8))
    assert moments.mean.tolist() == [0.5]
    assert moments.std.tolist() == [0.5]


def test_merging_equals_counting_in_one_go() -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)
    whole, parts = ChannelMoments.empty(3), [ChannelMoments.empty(3), ChannelMoments.empty(3)]
    for n, image in enumerate(images):
        whole.add(image)
        parts[n // 3].add(image)
    parts[0].merge(parts[1])
    np.testing.assert_allclose(parts[0].mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(parts[0].std, whole.std, rtol=1e-12)
    assert parts[0].images == 6


def test_evenly_spaced_pixels_stand_for_a_large_image() -> None:
    rows, columns = np.mgrid[0:1200, 0:1600]
    image = (120 + 60 * np.sin(rows / 90) + 40 * np.cos(columns / 70)).astype(np.uint8)[:, :, None]
    assert image.size > 20 * PIXELS
    moments = ChannelMoments.empty(1)
    moments.add(image)
    assert abs(moments.mean[0] - image.mean() / 255) < 0.002
    assert abs(moments.std[0] - image.std() / 255) < 0.002
