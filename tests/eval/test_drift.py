from __future__ import annotations

import pytest
import torch

from dinov3.eval.drift import drift, linear_cka, mean_cosine


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram_form(x: torch.Tensor, y: torch.Tensor) -> float:
    """CKA from its definition by kernels: centred Gram matrices of the images, their cosine."""
    n = len(x)
    centre = torch.eye(n, dtype=torch.double) - torch.full((n, n), 1 / n, dtype=torch.double)
    ours, theirs = (centre @ (t.double() @ t.double().T) @ centre for t in (x, y))
    return float((ours * theirs).sum() / (ours.norm() * theirs.norm()))


def test_cka_is_the_cosine_of_centred_gram_matrices() -> None:
    x, y = randn(20, 6), randn(20, 9, seed=1)
    assert linear_cka(x, y) == pytest.approx(gram_form(x, y))


def test_a_rotation_moves_the_cosine_but_not_cka() -> None:
    x = randn(30, 8)
    rotation, _ = torch.linalg.qr(randn(8, 8, seed=2))
    assert linear_cka(3 * x @ rotation, x) == pytest.approx(1.0, abs=1e-6)
    assert mean_cosine(x @ rotation, x) < 0.7


def test_features_that_have_not_moved_score_one_and_a_constant_scores_zero() -> None:
    start = {"cls": randn(10, 4), "patch": randn(40, 4, seed=1)}
    assert drift(start, start) == pytest.approx(
        dict.fromkeys(("drift_cls_cosine", "drift_cls_cka", "drift_patch_cosine", "drift_patch_cka"), 1.0)
    )
    assert linear_cka(torch.ones(10, 4), start["cls"]) == 0
