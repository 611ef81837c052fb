"""The feed-forward networks ``student.ffn_layer`` can name."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.models.scaling import scaled


class FeedForward(nn.Module):
    """One network in two halves; what lies between them is wide and the activation is computed again for little."""

    def widen(self, x: Tensor) -> tuple[Tensor, ...]:
        """``x [N, D]`` to hidden tensors before the activation ``[N, H]``."""
        raise NotImplementedError

    def narrow(self, *hidden: Tensor, gamma: Tensor | None = None) -> Tensor:
        """The activation and the last matrix, ``[N, D]``, times ``gamma [D]``."""
        raise NotImplementedError

    def forward(self, x: Tensor, gamma: Tensor | None = None) -> Tensor:
        """``x [N, D]`` through both halves, ``[N, D]``, times ``gamma [D]``."""
        return self.narrow(*self.widen(x), gamma=gamma)


class FFN(Protocol):
    """Builds one feed-forward network."""

    def __call__(self, dim: int, ratio: float, bias: bool) -> FeedForward: ...


class Mlp(FeedForward):
    """Linear, exact (erf) GELU, Linear; hidden width int(dim * ratio)."""

    def __init__(self, dim: int, ratio: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def widen(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.fc1(x),)

    def narrow(self, *hidden: Tensor, gamma: Tensor | None = None) -> Tensor:
        return scaled(self.fc2, F.gelu(hidden[0]), gamma)


class SwiGLU(FeedForward):
    """w3(silu(w1 x) * w2 x) (Shazeer 2020); hidden width int(dim * ratio) * 2/3, rounded up to ``align_to``."""

    def __init__(self, dim: int, ratio: float, bias: bool, *, align_to: int) -> None:
        super().__init__()
        narrow = int(int(dim * ratio) * 2 / 3)
        hidden = -(-narrow // align_to) * align_to
        self.w1 = nn.Linear(dim, hidden, bias=bias)
        self.w2 = nn.Linear(dim, hidden, bias=bias)
        self.w3 = nn.Linear(hidden, dim, bias=bias)

    def widen(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.w1(x), self.w2(x)

    def narrow(self, *hidden: Tensor, gamma: Tensor | None = None) -> Tensor:
        gate, value = hidden
        return scaled(self.w3, F.silu(gate) * value, gamma)


FFN_LAYERS: dict[str, FFN] = {
    "mlp": Mlp,
    "swiglu": partial(SwiGLU, align_to=8),
    "swiglu32": partial(SwiGLU, align_to=32),
    "swiglu64": partial(SwiGLU, align_to=64),
    "swiglu128": partial(SwiGLU, align_to=128),
}
