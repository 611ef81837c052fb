from __future__ import annotations

from typing import Any

import pytest
import torch

from dinov3.compress.errors import CompressError
from dinov3.compress.moments import moments, token_count, token_kinds
from dinov3.compress.surgery import blocks_of
from tests.compress.models import batches, images, vit


def test_moments_are_those_of_the_weighted_tokens_a_loop_sees() -> None:
    model = vit()
    found = moments(model, batches(16), ["fc2", "q", "v"])
    rows: list[torch.Tensor] = []
    handle = blocks_of(model)[1].mlp.fc2.register_forward_pre_hook(lambda _, args: rows.append(args[0]))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        model(images(16))
    handle.remove()
    x = torch.cat(rows).double()
    kinds = token_kinds(model, token_count(model, images(1))).repeat(16)
    # the weights are not stored: they are what makes the mean right, one a kind
    means = torch.stack([x[kinds == kind].mean(0) for kind in range(3)])  # [3, hidden]
    counts = torch.tensor([float((kinds == kind).sum()) for kind in range(3)], dtype=torch.float64)
    shares = torch.linalg.lstsq(means.T, found[1]["fc2"].mean[:, None]).solution[:, 0]
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-5)
    weights = (shares / counts)[kinds]
    cov = (x * weights[:, None]).T @ x - torch.outer(found[1]["fc2"].mean, found[1]["fc2"].mean)
    torch.testing.assert_close(found[1]["fc2"].cov, cov, rtol=1e-3, atol=1e-4)
    assert float(shares[0] / counts[0]) > float(shares[2] / counts[2])  # a class token moves the features more
    assert found[0]["q"].cov.data_ptr() != found[0]["v"].metric.data_ptr()
    assert torch.equal(found[0]["q"].mean, found[0]["v"].mean)


def test_the_metric_predicts_how_a_small_error_changes_the_features() -> None:
    """Of the last block's last layer the Jacobian can be had by differences: G ranks channels as they do."""
    model, batch = vit(depth=1), batches(24)
    with torch.no_grad():
        model.blocks[0].ls2.gamma.copy_(torch.linspace(0.05, 1.0, 32))  # type: ignore[union-attr, operator]
    metric = moments(model, batch, ["fc2"])[0]["fc2"].metric.diagonal()
    base: Any = model(images(24), is_training=True)
    scales = [base.cls.var(0).sum(), base.patches.flatten(0, 1).var(0).sum()]
    moved = []
    for channel in range(32):
        with torch.no_grad():
            model.blocks[0].mlp.fc2.bias[channel] += 1e-2  # type: ignore[union-attr, index, operator]
            now: Any = model(images(24), is_training=True)
            model.blocks[0].mlp.fc2.bias[channel] -= 1e-2  # type: ignore[union-attr, index, operator]
        parts = [(now.cls - base.cls).square().sum(1).mean(), (now.patches - base.patches).square().sum(2).mean()]
        moved.append(float(sum(part / scale for part, scale in zip(parts, scales, strict=True))))
    correlation = torch.corrcoef(torch.stack([metric, torch.tensor(moved, dtype=torch.float64)]))[0, 1]
    assert float(correlation) > 0.9


def test_weights_can_train_afterwards_and_no_hook_is_left() -> None:
    model = vit()
    moments(model, batches(8), ["proj", "fc2"])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_images_are_refused() -> None:
    with pytest.raises(CompressError, match="no calibration images"):
        moments(vit(), [], ["fc2"])
