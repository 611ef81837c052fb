"""Velocities under different conditions put together (classifier-free guidance, Ho and Salimans 2022), for two conditions."""

from __future__ import annotations

from torch import Tensor


def independent(none: Tensor, text: Tensor, dino: Tensor, *, text_scale: float, dino_scale: float) -> Tensor:
    """Each condition pushes away from none by itself. The model with both conditions is never asked.

    Scales (0, 0) give ``none``, (1, 0) give ``text``.
    """
    return none + text_scale * (text - none) + dino_scale * (dino - none)


def chained(none: Tensor, dino: Tensor, full: Tensor, *, text_scale: float, dino_scale: float) -> Tensor:
    """Features push away from none, then the text away from features alone (Brooks et al. 2023).

    Scales (1, 1) give ``full``, (0, 1) ``dino``, (0, 0) ``none``.
    """
    return none + dino_scale * (dino - none) + text_scale * (full - dino)
