"""The last layer of every branch fitted again, block by block, to what the uncompressed blocks give.

A closed-form cut in one block is best for the inputs of the whole model; behind other cuts the inputs are different.
So the images go through both models side by side, and each branch's last layer is solved by least squares for the
tokens of the whole model minus those that the compressed one has so far: later layers mend what earlier ones lost. A
ridge holds the weights near those of the cut. No gradient, one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.compress.moments import Batches, token_count, token_kinds
from dinov3.compress.surgery import blocks_of
from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.shapes import Product, ffn_names

RIDGE = 1e-2  # of the mean second moment of the layer's input
CLASS_SHARE = 0.2  # of an image's weight; alone it would be one token of two hundred
SMALL_GAMMA = 1e-3  # of the largest: a channel that LayerScale mutes is not fitted, the division would blow it up


@torch.no_grad()
def refit(small: Backbone, whole: Backbone, batches: Batches) -> None:
    """Fit ``small``, in place, to ``whole`` on ``batches``; both are vision transformers of the same depth and width."""
    streams = [_Stream(whole, small, batch) for batch in batches]
    for exact, cut in zip(blocks_of(whole), blocks_of(small), strict=True):
        for stream in streams:
            stream.through_whole(exact)
        attention, feed_forward = _last(cut.attn, "proj"), _last(cut.mlp, ffn_names(cut.mlp)[-1])
        _fit(attention, [s.sample(cut, attention, middle=True) for s in streams], _gamma(cut.ls1))
        _fit(feed_forward, [s.sample(cut, feed_forward, middle=False) for s in streams], _gamma(cut.ls2))
        for stream in streams:
            stream.through_small(cut)


def _gamma(scale: nn.Module | None) -> Tensor | None:
    return None if scale is None else cast(Tensor, scale.gamma).detach()


def _last(branch: nn.Module, name: str) -> nn.Linear:
    found = getattr(branch, name)
    return cast(nn.Linear, found.second if isinstance(found, Product) else found)


class _Stream:
    """One batch on its way through both models: packed tokens [S, D] before a block."""

    def __init__(self, whole: Backbone, small: Backbone, batch: Tensor) -> None:
        device = next(whole.parameters()).device
        self.weights = _token_weights(whole, batch).to(device)
        entered: list[tuple[Any, ...]] = []
        for model in (whole, small):
            first = blocks_of(model)[0]
            handle = first.register_forward_pre_hook(lambda _, args: entered.append(args))
            cast(Any, model).get_intermediate_layers(batch.to(device), n=[0])
            handle.remove()
        (self.exact, *self.rest), (self.x, *_) = entered
        self.middle = self.after = self.exact

    def through_whole(self, block: Block) -> None:
        """Tokens between the branches and behind both."""
        found: list[Tensor] = []
        handle = block.norm2.register_forward_pre_hook(lambda _, args: found.append(args[0].clone()))
        self.after = block(self.exact, *self.rest)
        handle.remove()
        (self.middle,) = found
        self.exact = self.after

    def through_small(self, block: Block) -> None:
        self.x = block(self.x, *self.rest)

    def sample(self, block: Block, last: nn.Linear, *, middle: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(input of ``last`` [S, n], what is missing behind its branch [S, D], weights [S])."""
        inputs: list[Tensor] = []
        between: list[Tensor] = []
        handles = [
            last.register_forward_pre_hook(lambda _, args: inputs.append(args[0])),
            block.norm2.register_forward_pre_hook(lambda _, args: between.append(args[0].clone())),
        ]
        after = block(self.x, *self.rest)
        for handle in handles:
            handle.remove()
        missing = self.middle - between[0] if middle else self.after - after
        return torch.cat([entry.flatten(0, -2) for entry in inputs]), missing, self.weights


def _token_weights(backbone: Backbone, batch: Tensor) -> Tensor:
    """[S] of a packed batch: the class token CLASS_SHARE of an image's tokens, the others 1."""
    kinds = token_kinds(backbone, token_count(backbone, batch))
    weights = torch.where(kinds == 0, CLASS_SHARE * len(kinds), 1.0)
    return weights.repeat(len(batch))


def _fit(last: nn.Linear, samples: Sequence[tuple[Tensor, Tensor, Tensor]], gamma: Tensor | None) -> None:
    """Add to ``last`` the ridge solution of input -> missing / gamma."""
    n, bias = last.in_features, last.bias is not None
    gram = torch.zeros(n + bias, n + bias, dtype=torch.float64, device=last.weight.device)
    cross = torch.zeros(n + bias, last.out_features, dtype=torch.float64, device=last.weight.device)
    for inputs, missing, weights in samples:
        rows = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1) if bias else inputs
        scaled = rows * weights[:, None]
        gram += (scaled.T @ rows).double()
        cross += (scaled.T @ missing).double()
    ridge = RIDGE * gram.diagonal()[:n].mean()
    gram[:n, :n] += ridge * torch.eye(n, dtype=gram.dtype, device=gram.device)
    change = torch.linalg.solve(gram, cross).T  # [out, n + bias]
    if gamma is not None:
        acts = gamma.abs() > SMALL_GAMMA * gamma.abs().max()
        change = torch.where(acts[:, None], change / torch.where(acts, gamma, 1.0)[:, None], 0.0)
    last.weight.add_(change[:, :n].to(last.weight))
    if bias:
        last.bias.add_(change[:, n].to(last.bias))
