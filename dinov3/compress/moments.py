"""What layers see and what their outputs mean, measured on images without labels.

Of the input of a layer: mean and covariance over tokens. Of its output: the second moment of the gradient of the
backbone's features, E[J^T v v^T J] for random v (Hutchinson 1990): the squared change of the features that a small error
of this output makes. Together they weigh an error of a matrix as Kronecker-factored curvature does (Martens and Grosse
2015), with LayerScale, norms and all later blocks in it, without a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.compress.errors import CompressError
from dinov3.compress.surgery import blocks_of, layer, matrix_names
from dinov3.contracts import Features
from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.vit_config import QKV

GRADIENT_IMAGES = 64  # the gradient's moment is D x D over tokens: of 64 images it is known to a few per cent
Batches = Sequence[Tensor]  # each [B, C, H, W], all of one size


@dataclass
class Moments:
    """Of one matrix: ``mean`` [in], ``cov`` [in, in] of what it sees, ``metric`` [out, out] of what it gives; float64."""

    mean: Tensor
    cov: Tensor
    metric: Tensor

    @property
    def second(self) -> Tensor:
        """The second moment about 0, [in, in]."""
        return self.cov + torch.outer(self.mean, self.mean)


@dataclass
class _Sums:
    """Running weighted sums over rows."""

    weight: float = 0.0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def add(self, rows: Tensor, weights: Tensor | None) -> None:
        scaled = rows if weights is None else rows * weights[:, None]
        self.weight += float(len(rows) if weights is None else weights.sum())
        self.first = self.first + scaled.sum(0).double()
        self.second = self.second + (scaled.T @ rows).double()


@dataclass
class _Watch:
    """Sums of the inputs or of the output gradients of the layers that are watched."""

    sums: dict[tuple[int, str], _Sums] = field(default_factory=dict)

    def add(self, key: tuple[int, str], rows: Tensor, weights: Tensor | None = None) -> None:
        self.sums.setdefault(key, _Sums()).add(rows.detach().flatten(0, -2).float(), weights)


def moments(backbone: Backbone, batches: Batches, names: Sequence[str]) -> list[dict[str, Moments]]:
    """For each block the moments of the matrices called ``names`` (those it has), over all tokens of ``batches``.

    Class, storage and patch tokens weigh as much as an error of theirs changes the features. Memory: the squared widths
    of all these layers in float64. CompressError when there are no images.
    """
    if not batches:
        raise CompressError("no calibration images: give --calibrate a data set")
    blocks = blocks_of(backbone)
    gradients, kinds = _gradients(backbone, blocks, batches, names)
    inputs = _inputs(backbone, blocks, batches, names, kinds)
    found: list[dict[str, Moments]] = []
    for index, block in enumerate(blocks):
        ours: dict[str, Moments] = {}
        for name in [n for n in names if n in matrix_names(block)]:
            sums, metric = inputs[index, _source(name)], gradients[index, name]
            mean = cast(Tensor, sums.first) / sums.weight
            cov = cast(Tensor, sums.second) / sums.weight - torch.outer(mean, mean)
            ours[name] = Moments(mean, cov, cast(Tensor, metric.second) / metric.weight)
        found.append(ours)
    return found


def _source(name: str) -> str:
    """Matrices with the same input share its sums."""
    return "qkv" if name in QKV else {"w2": "w1"}.get(name, name)


def token_kinds(backbone: Backbone, tokens: int) -> Tensor:
    """[T]: 0 class, 1 storage, 2 patch."""
    kinds = torch.full((tokens,), 2)
    kinds[0], kinds[1 : 1 + backbone.n_storage_tokens] = 0, 1
    return kinds


def token_count(backbone: Backbone, images: Tensor) -> int:
    """Tokens of one of ``images`` [B, C, H, W]."""
    side = backbone.stride
    return 1 + backbone.n_storage_tokens + (images.shape[2] // side) * (images.shape[3] // side)


def _gradients(
    backbone: Backbone, blocks: Sequence[Block], batches: Batches, names: Sequence[str]
) -> tuple[dict[tuple[int, str], _Sums], Tensor]:
    """Output gradients' sums of each matrix, and the weight [3] of a token of each kind, on average 1."""
    watch, strength, seen = _Watch(), torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    images = 0
    for batch in batches:
        if images >= GRADIENT_IMAGES:
            break
        images += len(batch)
        kinds = token_kinds(backbone, token_count(backbone, batch)).repeat(len(batch))

        def note(index: int, name: str, grad: Tensor, kinds: Tensor = kinds) -> None:
            parts = {name: grad} if name not in QKV else dict(zip(QKV, grad.chunk(3, -1), strict=True))
            for part, rows in parts.items():
                watch.add((index, part), rows)
            if name in ("proj", "fc2", "w3"):  # what joins the residual stream
                squares = grad.detach().flatten(0, -2).double().square().sum(1).cpu()
                strength.index_add_(0, kinds, squares)
                seen.index_add_(0, kinds, torch.ones_like(squares))

        with _watched(blocks, names, on_output_gradient=note):
            _pull_back(backbone, batch, generator)
    mean = strength / seen.clamp_min(1)
    weights = mean / (strength.sum() / seen.sum()).clamp_min(1e-300)
    return watch.sums, torch.where(seen > 0, weights, 1.0)


def _pull_back(backbone: Backbone, batch: Tensor, generator: torch.Generator) -> None:
    """Send random cotangents back from the features. The class token counts as much as all patches together."""
    device = next(backbone.parameters()).device
    with torch.enable_grad():
        images = batch.to(device, copy=True).requires_grad_()
        out = backbone(images, is_training=True)
        assert isinstance(out, Features)
        total = torch.zeros((), device=device)
        for tokens in (out.cls[:, None], out.patches):
            scale = tokens.detach().flatten(0, 1).var(0).sum().sqrt().clamp_min(1e-12)  # of what tells images apart
            v = torch.randn(tokens.shape, generator=generator).to(device) / (scale * tokens.shape[1] ** 0.5)
            total = total + (tokens * v).sum()
        torch.autograd.grad(total, images)


@torch.no_grad()
def _inputs(
    backbone: Backbone, blocks: Sequence[Block], batches: Batches, names: Sequence[str], kinds: Tensor
) -> dict[tuple[int, str], _Sums]:
    watch = _Watch()
    device = next(backbone.parameters()).device
    for batch in batches:
        weights = kinds[token_kinds(backbone, token_count(backbone, batch))].float().repeat(len(batch)).to(device)

        def note(index: int, name: str, rows: Tensor, weights: Tensor = weights) -> None:
            watch.add((index, name), rows, weights)

        with _watched(blocks, names, on_input=note):
            backbone(batch.to(device), is_training=True)
    return watch.sums


@contextmanager
def _watched(
    blocks: Sequence[Block],
    names: Sequence[str],
    *,
    on_input: Callable[..., None] | None = None,
    on_output_gradient: Callable[..., None] | None = None,
) -> Iterator[None]:
    """Hooks on the layers of ``names`` while the context lasts; AssertionError when one of them was never called."""
    handles, called, wanted = [], set(), set()
    frozen = [p for b in blocks for p in b.parameters() if p.requires_grad]
    for parameter in frozen:  # gradients of activations are wanted, not of weights
        parameter.requires_grad_(False)
    for index, block in enumerate(blocks):
        for name in dict.fromkeys(_source(n) for n in names if n in matrix_names(block)) if on_input else ():
            module = block.attn.qkv if name == "qkv" else layer(block, name)
            wanted.add((index, name))

            def before(_: nn.Module, inputs: Any, key: tuple[int, str] = (index, name)) -> None:
                called.add(key)
                assert on_input is not None
                on_input(*key, inputs[0])

            handles.append(module.register_forward_pre_hook(before))
        for name in _outputs(block, names) if on_output_gradient else ():
            wanted.add((index, name))

            def after(_: nn.Module, inputs: Any, output: Tensor, key: tuple[int, str] = (index, name)) -> None:
                called.add(key)
                assert on_output_gradient is not None
                output.register_hook(lambda grad: on_output_gradient(*key, grad))

            handles.append((block.attn.qkv if name == "q" else layer(block, name)).register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)
    assert called == wanted, f"layers that were never called: {sorted(wanted - called)[:3]}"


def _outputs(block: Block, names: Sequence[str]) -> list[str]:
    """Of q, k, v one stands for the fused output; the layer back to the residual stream is always watched."""
    down = matrix_names(block)[-1]
    chosen = [n for n in matrix_names(block) if n in names or n in ("proj", down)]
    return [n for n in chosen if n not in ("k", "v")] if "q" in chosen else chosen
