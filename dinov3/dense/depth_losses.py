"""Losses of depth: scale invariant, gradients of several scales, and plain L1. Gradients flow to the prediction."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 0.001  # in both logarithms
SCALES = (1, 2, 4, 6)  # px between the samples of the gradient losses
WARM_UP_CALLS = 100  # of SigLoss: until then the error's mean alone, which is stable from the first step


def sig_loss(prediction: Tensor, truth: Tensor, valid: Tensor, *, warm: bool) -> Tensor:
    """sqrt(var(g) + 0.15 mean(g)^2) with g = ln(prediction + eps) - ln(truth + eps) on valid pixels.

    ``warm``: without the (unbiased) variance. Source: Eigen et al. 2014, as in BTS and DINOv3.
    """
    g = (prediction[valid] + EPS).log() - (truth[valid] + EPS).log()
    square = 0.15 * g.mean() ** 2
    return (square if warm else g.var() + square).sqrt()


class SigLoss:
    """``sig_loss`` that counts its calls; the first ``warm_up`` are without the variance."""

    def __init__(self, warm_up: int = WARM_UP_CALLS) -> None:
        self.calls, self.warm_up = 0, warm_up

    def __call__(self, prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """The loss of ``[N, 1, H, W]``."""
        self.calls += 1
        return sig_loss(prediction, truth, valid, warm=self.calls <= self.warm_up)


def l1_loss(prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error on valid pixels."""
    return (prediction[valid] - truth[valid]).abs().mean()


def gradient_loss(prediction: Tensor, truth: Tensor, valid: Tensor, *, log: bool = False) -> Tensor:
    """Mean absolute difference of the gradients of ``[N, 1, H, W]``, summed over the subsampled ``SCALES``.

    A gradient is the difference of two pixels two apart, and counts where both are valid; the sum of a scale is
    divided by its valid pixels. ``log``: of ln(depth + eps) instead of the depth.
    """
    total = prediction.new_zeros(())
    for step in SCALES:
        p, g, known = (x[..., ::step, ::step] for x in (prediction, truth, valid))
        error = torch.log(p + EPS) - torch.log(g + EPS) if log else p - g
        error = torch.where(known, error, torch.zeros_like(error))
        rows = (error[..., :-2, :] - error[..., 2:, :]).abs() * (known[..., :-2, :] & known[..., 2:, :])
        columns = (error[..., :-2] - error[..., 2:]).abs() * (known[..., :-2] & known[..., 2:])
        total = total + (rows.sum() + columns.sum()) / known.sum().clamp_min(1)
    return total
