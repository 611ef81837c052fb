from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinov3.dense.windows import resized, slide, window_places, with_flip

SIDE = st.integers(1, 40)


def uncovered(side: int, crop: int, stride: int) -> bool:
    """Whether a pixel of an axis lies in no window."""
    covered = [False] * side
    for i in range(max(side - crop + stride - 1, 0) // stride + 1):
        start = max(0, min(i * stride, side - crop))
        covered[start : start + crop] = [True] * len(covered[start : start + crop])
    return not all(covered)


@settings(max_examples=200, deadline=None)
@given(image=st.tuples(SIDE, SIDE), crop=st.tuples(SIDE, SIDE), stride=st.tuples(SIDE, SIDE))
def test_windows_lie_inside_and_cover_every_pixel_or_are_refused(
    image: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]
) -> None:
    smaller = (min(image), min(image)) if crop[0] > image[0] and crop[1] > image[1] else crop
    if any(uncovered(i, min(c, i), s) for i, c, s in zip(image, smaller, stride, strict=True)):
        with pytest.raises(ValueError, match="leave gaps"):
            window_places(image, crop, stride)
        return
    places = window_places(image, crop, stride)
    count = torch.zeros(image)
    for top, bottom, left, right in places:
        assert 0 <= top < bottom <= image[0]
        assert 0 <= left < right <= image[1]
        count[top:bottom, left:right] += 1
    assert count.min() >= 1


def test_a_network_that_looks_at_single_pixels_does_not_notice_the_windows() -> None:
    x = torch.randn(2, 3, 23, 31)
    logits, count = slide(lambda y: y * 2, x, (8, 12), (5, 7))
    torch.testing.assert_close(logits, x * 2)
    assert count.max() > 1


def test_flip_averages_probabilities_of_both_views() -> None:
    def lopsided(images: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, images.shape[-1])
        return torch.stack([images[:, 0] * ramp, -images[:, 0]], dim=1)

    x = torch.randn(1, 1, 6, 8)
    by_hand = (lopsided(x).softmax(1) + lopsided(x.flip(-1)).flip(-1).softmax(1)) / 2
    torch.testing.assert_close(with_flip(lopsided, x, (6, 8)), by_hand)
    torch.testing.assert_close(with_flip(lopsided, x, (12, 16), flip=False), resized(lopsided(x), (12, 16)).softmax(1))


def test_a_stride_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="leave gaps"):
        window_places((40, 40), (8, 8), (9, 8))
    with pytest.raises(ValueError, match="at least 1"):
        window_places((40, 40), (8, 8), (0, 8))
