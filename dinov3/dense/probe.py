"""Heads on frozen features: ridge regression in closed form, or AdamW over cached or freshly augmented batches.

Seeded: the same seed gives the same head, whatever ran before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov3.system.bars import Counting, counted

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of ridge, for standardised features
CHUNK = 65536  # patches whose products are summed at once


@dataclass(frozen=True)
class Fit:
    """How a head is trained. The learning rate rises linearly for ``warmup`` steps, then falls to 0 as a cosine."""

    steps: int = 500
    batch: int = 16
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-3
    warmup: int = 50
    clip: float = 0.0  # largest norm of the gradient; 0: any
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of step 0 to ``steps`` - 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (1 + math.cos(math.pi * done)) / 2


Batches = Callable[[int], tuple[Tensor, Tensor]]  # step -> maps [N, D, h, w], truth [N, H, W]


def fit_head(
    make: Callable[[], nn.Module],
    batch_at: Batches,
    loss: Callable[[Tensor, Tensor], Tensor],
    fit: Fit,
    device: torch.device | str = "cpu",
    counting: Counting = counted,
) -> nn.Module:
    """The trained head, in eval mode. ``loss(logits, truth)``; a head takes a list of one level.

    It is on ``device`` or, where only deterministic operators are allowed, on the CPU: CUDA has none for the loss of maps.

    Raises FloatingPointError when the loss is no longer a number.
    """
    if torch.are_deterministic_algorithms_enabled():
        device = "cpu"
    used = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(used):  # initial weights and dropout draw from torch's own generators
        torch.manual_seed(fit.seed)
        head = make().to(device).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=fit.lr, betas=fit.betas, weight_decay=fit.weight_decay)
        with counting("probe", fit.steps, "steps") as count:
            for step in range(fit.steps):
                for group in optimizer.param_groups:
                    group["lr"] = fit.rate(step)
                maps, truth = batch_at(step)
                value = loss(head([maps.to(device)]), truth.to(device))
                if not torch.isfinite(value):
                    raise FloatingPointError(f"the loss of step {step} is {float(value.detach())}: lower lr")
                optimizer.zero_grad()
                value.backward()
                if fit.clip:
                    nn.utils.clip_grad_norm_(head.parameters(), fit.clip)
                optimizer.step()
                count(1)
    return head.eval()


def chosen_rows(n: int, batch: int, seed: int, step: int) -> list[int]:
    """Which of n images make the batch of a step: passes over all of them, each in an order of its own."""
    first, last = step * batch, (step + 1) * batch
    orders = {epoch: _order(n, seed, epoch) for epoch in range(first // n, (last - 1) // n + 1)}
    return [orders[place // n][place % n] for place in range(first, last)]


def _order(n: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    return torch.randperm(n, generator=generator).tolist()


@dataclass(frozen=True)
class Ridge:
    """``y = x @ weight + bias`` and the penalty that was chosen."""

    weight: Tensor  # [D, K] float32
    bias: Tensor  # [K]
    penalty: float
    held_out: dict[float, float]  # mean squared error on held-out rows, by penalty


def fit_ridge(
    x: Tensor, y: Tensor, held: Tensor, *, weights: Tensor | None = None, penalties: Sequence[float] = PENALTIES
) -> Ridge:
    """Least squares of ``y [N, K]`` on ``x [N, D]`` with a squared penalty, chosen on the rows ``held [N]`` (bool).

    The penalty is a multiple of the number of rows, for features standardised per dimension. ``weights [N]`` count
    rows. float64 inside. ValueError without rows of both kinds.
    """
    w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weights is None else weights.double()
    if not bool(w[held].sum() > 0) or not bool(w[~held].sum() > 0):
        raise ValueError("ridge regression needs training rows, and held-out rows to choose the penalty")
    mean, std = x[~held].float().mean(0).double(), x[~held].float().std(0).double().clamp_min(1e-6)
    centre = (w[~held, None] * y[~held].double()).sum(0) / w[~held].sum()
    gram, right = _products(x[~held], y[~held], w[~held], mean, std, centre)
    best: tuple[float, Tensor, float] | None = None
    errors: dict[float, float] = {}
    for penalty in penalties:
        eye = torch.eye(len(gram), dtype=torch.float64, device=x.device)
        solved = torch.linalg.solve(gram + penalty * w[~held].sum() * eye, right)  # [D, K]
        off = ((x[held].double() - mean) / std) @ solved + centre - y[held].double()
        errors[penalty] = float((w[held, None] * off**2).sum() / w[held].sum())
        if best is None or errors[penalty] < best[2]:
            best = (penalty, solved, errors[penalty])
    assert best is not None
    weight = best[1] / std[:, None]
    return Ridge(weight.float(), (centre - mean @ weight).float(), best[0], errors)


def _products(x: Tensor, y: Tensor, w: Tensor, mean: Tensor, std: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    right = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        z = (x[part].double() - mean) / std
        gram += z.T @ (w[part, None] * z)
        right += z.T @ (w[part, None] * (y[part].double() - centre))
    return gram, right
