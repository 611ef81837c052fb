"""Linear probe of frozen features: one softmax layer for each learning rate of a grid, all trained at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.system.bars import Bar

LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)  # for standardised features and batches of 256
HELD_OUT = 10  # every tenth training row chooses the learning rate


@dataclass(frozen=True)
class LinearProbe:
    """``logits = (x - mean) / std @ weight + bias`` and how it was chosen."""

    mean: Tensor  # [D]
    std: Tensor  # [D]
    weight: Tensor  # [D, n_classes]
    bias: Tensor  # [n_classes]
    learning_rate: float
    validation: dict[float, float]  # accuracy on held-out training rows, by learning rate

    def __call__(self, features: Tensor) -> Tensor:
        """Logits ``[N, n_classes]`` of ``features [N, D]``."""
        return torch.addmm(self.bias, (features.float() - self.mean) / self.std, self.weight)


def fit_linear(
    features: Tensor,
    labels: Tensor,
    *,
    n_classes: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 30,
    batch_size: int = 256,
    weight_decay: float = 0.0,
    seed: int = 0,
    quiet: bool = True,
) -> LinearProbe:
    """Train on nine rows of ten, choose the learning rate on the tenth: the test set decides nothing.

    ``features [N, D]``, ``labels [N]`` int64. SGD with momentum 0.9 and a cosine to zero; features are standardised per
    dimension. Rows are shuffled by ``seed`` before the split. Runs where ``features`` are.
    """
    if len(features) < HELD_OUT:
        raise ValueError(f"{len(features)} training images: a linear probe needs at least {HELD_OUT}")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
    x, y = features[order].float(), labels[order].to(features.device)
    chosen_by = torch.arange(len(x), device=x.device) % HELD_OUT == 0
    (x, y), (held_x, held_y) = (x[~chosen_by], y[~chosen_by]), (x[chosen_by], y[chosen_by])
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    weight, bias = _train((x - mean) / std, y, n_classes, learning_rates, epochs, batch_size, weight_decay, seed, quiet)
    logits = torch.einsum("nd,rdk->rnk", (held_x - mean) / std, weight) + bias  # [n_rates, N/10, n_classes]
    accuracy = (logits.argmax(-1) == held_y).float().mean(1).tolist()
    loss = F.cross_entropy(logits.permute(1, 2, 0), held_y[:, None].expand(-1, len(logits)), reduction="none").mean(0)
    best = int(loss.nan_to_num(torch.inf).argmin())  # not accuracy: of few held-out images that ties
    validation = dict(zip(learning_rates, accuracy, strict=True))
    return LinearProbe(mean, std, weight[best], bias[best, 0], learning_rates[best], validation)


def _train(
    x: Tensor,
    y: Tensor,
    n_classes: int,
    rates: Sequence[float],
    epochs: int,
    batch_size: int,
    weight_decay: float,
    seed: int,
    quiet: bool,
) -> tuple[Tensor, Tensor]:
    """Weights ``[n_rates, D, n_classes]`` and biases ``[n_rates, 1, n_classes]``: layers that share nothing but their batches."""
    weight = torch.zeros(len(rates), x.shape[1], n_classes, device=x.device)
    bias = torch.zeros(len(rates), 1, n_classes, device=x.device)
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rate = torch.tensor(rates, device=x.device).view(-1, 1, 1)
    steps = -(-len(x) // batch_size)
    generator = torch.Generator().manual_seed(seed + 1)
    with Bar(epochs, about="linear probe", unit="epochs", shown=not quiet) as bar:
        for epoch in range(epochs):
            shuffled = torch.randperm(len(x), generator=generator).to(x.device)
            for step, rows in enumerate(shuffled.split(batch_size)):
                inputs, targets = x[rows], F.one_hot(y[rows], n_classes).float()  # [n, D], [n, n_classes]
                logits = torch.einsum("nd,rdk->rnk", inputs, weight) + bias
                error = (logits.softmax(-1) - targets) / len(rows)  # the gradient of the mean cross-entropy
                gradients = [
                    torch.einsum("nd,rnk->rdk", inputs, error) + weight_decay * weight,
                    error.sum(1, keepdim=True),
                ]
                done = torch.tensor((epoch * steps + step) / (epochs * steps))
                now = rate * (1 + torch.cos(torch.pi * done)) / 2
                for value, velocity, gradient in zip((weight, bias), momentum, gradients, strict=True):
                    velocity.mul_(0.9).add_(gradient)
                    value.sub_(now * velocity)
            bar.update()
    return weight, bias
