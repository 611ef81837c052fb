from __future__ import annotations

import math

import pytest
import torch

from dinov3.dense.depth_metrics import (
    METRICS,
    depth_scores,
    eigen_crop,
    evaluate_depth,
    flip_average,
    mean_scores,
    scale_and_shift,
    valid_pixels,
)


def by_hand(prediction: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor) -> dict[str, float]:
    pairs = [
        (p, g)
        for p, g, v in zip(
            prediction.flatten().tolist(), truth.flatten().tolist(), valid.flatten().tolist(), strict=True
        )
        if v and g > 0
    ]
    n = len(pairs)
    logs = [math.log(g) - math.log(p) for p, g in pairs]
    found = {f"a{k}": sum(max(p / g, g / p) < 1.25**k for p, g in pairs) / n for k in (1, 2, 3)}
    return found | {
        "abs_rel": sum(abs(p - g) / g for p, g in pairs) / n,
        "rmse": math.sqrt(sum((p - g) ** 2 for p, g in pairs) / n),
        "log_10": sum(abs(math.log10(g) - math.log10(p)) for p, g in pairs) / n,
        "rmse_log": math.sqrt(sum(d * d for d in logs) / n),
        "silog": 100 * math.sqrt(sum(d * d for d in logs) / n - (sum(logs) / n) ** 2),
        "sq_rel": sum((p - g) ** 2 / g for p, g in pairs) / n,
        "mae": sum(abs(p - g) for p, g in pairs) / n,
    }


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_a_loop_over_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth, prediction = (torch.rand(9, 7, generator=generator) * 8 + 0.1 for _ in range(2))
    valid = torch.rand(9, 7, generator=generator) > 0.3
    truth[0] = 0
    found = dict(zip(METRICS, depth_scores(prediction, truth, valid).tolist(), strict=True))
    for name, value in by_hand(prediction, truth, valid).items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_an_image_without_valid_pixels_is_in_no_mean() -> None:
    """DINOv3's code gives it a silog of 0, which lowers the mean; that is there only when asked for."""
    truth, none = torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.bool)
    empty = depth_scores(truth, truth, none)
    assert empty.isnan().all()
    official = depth_scores(truth, truth, none, empty_silog=0.0)
    assert official[METRICS.index("silog")] == 0
    assert int(official.isnan().sum()) == len(METRICS) - 1
    full = depth_scores(2 * truth, truth, ~none)
    torch.testing.assert_close(mean_scores(torch.stack([empty, full])), full)


def test_alignment_finds_the_scale_and_shift_that_were_applied() -> None:
    truth = torch.rand(6, 5) * 5 + 1
    valid = torch.rand(6, 5) > 0.2
    scale, shift = scale_and_shift((truth - 0.5) / 3, truth, valid)
    assert (scale, shift) == (pytest.approx(3, rel=1e-4), pytest.approx(0.5, abs=1e-3))
    assert scale_and_shift(truth, truth, torch.zeros(6, 5, dtype=torch.bool)) == (0.0, 0.0)
    scale, shift = scale_and_shift(torch.full((6, 5), 2.0), truth, valid)  # a constant: only their sum can be told
    assert 2 * scale + shift == pytest.approx(float(truth[valid].double().mean()))


def test_the_range_excludes_its_ends_and_the_eigen_crop_is_nyus() -> None:
    truth = torch.tensor([[0.0, 0.5, 5.0, 10.0, 11.0]])
    assert valid_pixels(truth, 0.5, 10).tolist() == [[False, False, True, False, False]]
    assert eigen_crop(480, 640) == (45, 471, 41, 601)
    assert int(valid_pixels(torch.ones(480, 640), 0.1, 10, eigen=True).sum()) == 426 * 560


def test_a_small_prediction_is_resized_and_clamped() -> None:
    scores, valid, _ = evaluate_depth(torch.full((2, 2), 50.0), torch.full((8, 6), 9.0), low=0.1, high=10)
    assert valid.all()
    assert scores[METRICS.index("mae")] == pytest.approx(1.0)


def test_the_mirrored_prediction_is_turned_back() -> None:
    x = torch.rand(3, 4)
    torch.testing.assert_close(flip_average(x, x.flip(-1)), x)
