from __future__ import annotations

import pytest
import torch

from dinov3.dense.depth_bins import BINS, NORMS, bin_weights, depth_bins, depth_of, pad_to_multiple


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("norm", NORMS[:3])
def test_depth_stays_between_the_first_and_the_last_bin(bins: str, norm: str) -> None:
    logits = torch.randn(2, 12, 3, 4) * 5
    depth = depth_of(logits, 0.5, 40.0, bins=bins, norm=norm)
    assert depth.shape == (2, 1, 3, 4)
    assert depth.min() >= 0.5 - 1e-4
    assert depth.max() <= 40.0 + 1e-3
    torch.testing.assert_close(bin_weights(logits, norm).sum(1), torch.ones(2, 3, 4))


def test_one_certain_channel_gives_its_bin() -> None:
    logits = torch.full((1, 5, 1, 1), -1000.0)
    logits[0, 3] = 1000.0
    assert float(depth_of(logits, 1, 5, norm="softmax")) == pytest.approx(float(depth_bins(5, 1, 5)[3]))


def test_a_pixel_without_a_positive_channel_is_no_division_by_zero() -> None:
    silent = torch.full((1, 5, 2, 2), -3.0)
    for norm in NORMS:
        assert torch.isfinite(depth_of(silent, 1, 5, norm=norm)).all()


def test_the_odd_pixel_of_padding_goes_right_and_below() -> None:
    padded = pad_to_multiple(torch.ones(1, 1, 5, 7), 8)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0].sum() == 0
    assert padded[0, 0, 1, :7].sum() == 7
    assert padded[0, 0, 6:].sum() == 0


@pytest.mark.parametrize(
    "call", [lambda: depth_bins(3, 1, 2, "cubic"), lambda: bin_weights(torch.zeros(1, 3, 1, 1), "x")]
)
def test_an_unknown_rule_is_named_with_those_there_are(call: object) -> None:
    with pytest.raises(ValueError, match="choose linear"):
        call()  # type: ignore[operator]
