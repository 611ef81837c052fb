from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dinov3.dense.linear_head import LinearHead


def test_resizing_the_logits_equals_resizing_the_features() -> None:
    """A 1x1 convolution and bilinear weights that sum to 1 commute: the cheap order is not another model."""
    head = LinearHead([8], 5).eval()
    x = torch.randn(2, 8, 4, 6)
    cheap = head.predict([x], (64, 96))
    dear = head([F.interpolate(x, (64, 96), mode="bilinear", align_corners=False)])
    assert cheap.shape == (2, 5, 64, 96)
    torch.testing.assert_close(cheap, dear, rtol=1e-4, atol=1e-5)


def test_levels_and_class_tokens_are_joined_on_the_first_grid() -> None:
    head = LinearHead([3, 3], 2, cls_token=True)
    first, second = (torch.randn(1, 3, 4, 4), torch.ones(1, 3)), (torch.randn(1, 3, 2, 2), 2 * torch.ones(1, 3))
    joined = head.joined([first, second])
    assert joined.shape == (1, 12, 4, 4)
    assert torch.equal(joined[:, :3], first[0])
    assert (joined[:, 3:6] == 1).all()
    assert (joined[:, 9:] == 2).all()


def test_a_class_token_that_is_missing_or_not_wanted_is_refused() -> None:
    with pytest.raises(ValueError, match="each level is patches"):
        LinearHead([3], 2).joined([(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3))])
    with pytest.raises(ValueError, match="patches and cls"):
        LinearHead([3], 2, cls_token=True).joined([torch.zeros(1, 3, 2, 2)])
