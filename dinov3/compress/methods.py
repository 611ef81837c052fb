"""The methods by name, and how much each takes away: of an energy, or of a budget over all layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dinov3.compress.allocation import Curve, Option, allocate
from dinov3.compress.costs import Costs, has_bias
from dinov3.compress.energy import RULES, Cut, Spectra, prune
from dinov3.compress.errors import CompressError
from dinov3.compress.moments import Batches, Moments, moments
from dinov3.compress.refit import refit
from dinov3.compress.removal import Left, compensated, mean_folded, removal_curve, variance_curve
from dinov3.compress.surgery import (
    blocks_of,
    dense,
    factorise,
    keep_heads,
    keep_neurons,
    layer,
    matrix_names,
    rebuilt,
    weight_of,
)
from dinov3.compress.whitened import bias_for, factors, ranks_to_try
from dinov3.models.attention import KeyBiasMaskedLinear
from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.shapes import ffn_names
from dinov3.models.vit_config import QKV

CALIBRATED = ("variance", "compensate", "whitened")
METHODS = {
    "heads": "heads by the energy of their columns of the output projection",
    "mlp": "neurons by the energy of their row times their column",
    "svd": "ranks by the energy of singular values",
    "variance": "neurons by the variance of their activations, the mean folded into the bias",
    "compensate": "neurons and heads whose part the others can take over, by least squares",
    "whitened": "ranks by the error they leave in the features",
}
ALIASES = {
    "attention_heads": "heads",
    "mlp_neurons": "mlp",
    "truncated_svd": "svd",
    "vbp": "variance",
    "corp": "compensate",
}
SEARCHES = 40  # halvings of the share an energy rule keeps, until the budget is met


@dataclass(frozen=True)
class Step:
    """One method. ``amount``: of an energy rule the share tau, of a calibrated one what is left of the model's cost."""

    method: str
    amount: float


@dataclass(frozen=True)
class Settings:
    """What all steps share."""

    costs: Costs
    multiple: int = 1  # widths and ranks are rounded to it
    refit: bool = True  # after calibrated methods but ``variance``


def compress(
    backbone: Backbone, steps: Sequence[Step], settings: Settings, batches: Batches = ()
) -> tuple[Backbone, list[Cut]]:
    """A compressed copy of ``backbone``, as it will be loaded, and every cut that was made.

    ``batches``: images for calibrated methods, prepared as the backbone sees them. CompressError for an order that
    cannot be (a factorised layer has no heads or neurons left to remove), a budget that cannot be met or no images.
    """
    small, cuts = copy.deepcopy(backbone).eval(), []
    whole = settings.costs.float32().model(backbone)
    for step in steps:
        if step.method in RULES:
            cuts += prune(small, step.method, step.amount, multiple=settings.multiple)
        else:
            cuts += _calibrated(small, step, settings, batches, whole)
    if settings.refit and any(step.method in ("compensate", "whitened") for step in steps):
        refit(small, backbone, batches)
    return rebuilt(small), cuts


def energy_steps(
    backbone: Backbone, rules: Sequence[str], budget: float, settings: Settings
) -> tuple[list[Step], float]:
    """The share tau, the same for all ``rules``, with which they meet ``budget``; and what is then left of the cost."""
    whole = settings.costs.float32().model(backbone)

    spectra = Spectra()

    def left(tau: float) -> float:
        small = copy.deepcopy(backbone).eval()
        for rule in rules:
            prune(small, rule, tau, multiple=settings.multiple, sketch=spectra)
        return settings.costs.model(rebuilt(small)) / whole

    low, high = 0.0, 1.0
    if left(1.0) <= budget:
        return [Step(rule, 1.0) for rule in rules], 1.0
    for _ in range(SEARCHES):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) > budget else (middle, high)
    if low == 0.0:
        raise CompressError(
            f"--budget {budget:g}: even one unit a layer is more; allow more methods or a larger budget"
        )
    return [Step(rule, low) for rule in rules], left(low)


def _calibrated(small: Backbone, step: Step, settings: Settings, batches: Batches, whole: int) -> list[Cut]:
    if not 0 < step.amount <= 1:
        raise CompressError(f"{step.method} {step.amount:g}: what is left, above 0 and at most 1")
    blocks = blocks_of(small)
    parts = {"variance": _variance, "compensate": _compensate, "whitened": _whitened}[step.method]
    names = {"variance": _down, "compensate": _back, "whitened": matrix_names}[step.method](blocks[0])
    found = moments(small, batches, names)
    offers = [offer for i, block in enumerate(blocks) for offer in parts(block, i, found[i], settings)]
    rest = settings.costs.model(small) - sum(offer.curve[0].cost for offer in offers)
    least = (rest + sum(min(option.cost for option in offer.curve) for offer in offers)) / whole
    if step.amount < least:
        raise CompressError(
            f"{step.method} leaves at least {math.ceil(1000 * least) / 1000:g} of the {settings.costs.unit}, "
            f"{step.amount:g} is asked for: give more, or add another method"
        )
    picked = allocate([offer.curve for offer in offers], step.amount * whole - rest)
    return [cut for offer, option in zip(offers, picked, strict=True) for cut in offer.take(option)]


def _down(block: Block) -> tuple[str, ...]:
    return (ffn_names(block.mlp)[-1],)


def _back(block: Block) -> tuple[str, ...]:
    return ("proj", *_down(block))


@dataclass(frozen=True)
class Offer:
    """What could be cut at one place, and how."""

    curve: Curve
    take: Callable[[Option], list[Cut]]


def _variance(block: Block, index: int, found: dict[str, Moments], settings: Settings) -> list[Offer]:
    (name,) = _down(block)
    ours = found[name]
    if not has_bias(layer(block, name)):
        raise CompressError(f"{name} has no bias to fold a mean into: use compensate")
    curve = variance_curve(dense(block, name), ours, multiple=settings.multiple)

    def take(option: Option) -> list[Cut]:
        kept: Tensor = option.choice
        last: Any = layer(block, name)
        weight, bias = mean_folded(last.weight.detach(), last.bias.detach(), ours, kept)
        return [_keep_neurons(block, index, kept, weight, bias)]

    return [Offer([Option(settings.costs.neurons(block, len(k)), e, k) for k, e in curve], take)]


def _compensate(block: Block, index: int, found: dict[str, Moments], settings: Settings) -> list[Offer]:
    return [
        _removal(block, index, found, settings, heads=True),
        _removal(block, index, found, settings, heads=False),
    ]


def _removal(block: Block, index: int, found: dict[str, Moments], settings: Settings, *, heads: bool) -> Offer:
    name = "proj" if heads else _down(block)[0]
    ours, width = found[name], block.attn.head_dim if heads else 1
    weight = dense(block, name)
    seen = ours.cov if has_bias(layer(block, name)) else ours.second
    multiple = 1 if heads else settings.multiple
    curve: list[Left] = removal_curve(weight, seen, ours.metric, width=width, multiple=multiple)
    cost = settings.costs.heads if heads else settings.costs.neurons

    def take(option: Option) -> list[Cut]:
        kept: Tensor = option.choice
        last: Any = layer(block, name)
        old = None if last.bias is None else last.bias.detach()
        best, bias = compensated(last.weight.detach(), old, ours, kept, width=width)
        return [(_keep_heads if heads else _keep_neurons)(block, index, kept, best, bias)]

    return Offer([Option(cost(block, len(k)), e, k) for k, e in curve], take)


@torch.no_grad()
def _keep_heads(block: Block, index: int, kept: Tensor, weight: Tensor, bias: Tensor | None) -> Cut:
    before = block.attn.num_heads
    if len(kept) < before:
        keep_heads(block, kept)
        _set(block.attn.proj, weight, bias)
    return Cut(index, "heads", before, len(kept), kept.tolist())


@torch.no_grad()
def _keep_neurons(block: Block, index: int, kept: Tensor, weight: Tensor, bias: Tensor | None) -> Cut:
    (name,) = _down(block)
    before = int(getattr(block.mlp, name).in_features)
    if len(kept) < before:
        keep_neurons(block, kept)
        _set(getattr(block.mlp, name), weight, bias)
    return Cut(index, "neurons", before, len(kept), kept.tolist())


def _set(linear: Any, weight: Tensor, bias: Tensor | None) -> None:
    linear.weight.copy_(weight)
    if bias is not None:
        linear.bias.copy_(bias)


def _whitened(block: Block, index: int, found: dict[str, Moments], settings: Settings) -> list[Offer]:
    names = [name for name in matrix_names(block) if weight_of(block, name) is not None]
    return [_matrix(block, index, name, found[name], settings) for name in names]


def _matrix(block: Block, index: int, name: str, ours: Moments, settings: Settings) -> Offer:
    weight, bias = dense(block, name), bias_of(block, name)
    out_features, in_features = weight.shape
    made = factors(weight, ours, has_bias=bias is not None)
    full, costs = min(weight.shape), settings.costs
    whole = Option(costs.linear(in_features, out_features, bias=bias is not None), 0.0, full)
    options = [
        Option(costs.product(in_features, out_features, r, bias=bias is not None), float(made.errors[r]), r)
        for r in ranks_to_try(out_features, in_features, settings.multiple)
    ]

    def take(option: Option) -> list[Cut]:
        rank: int = option.choice
        if rank == full:
            return [Cut(index, name, full, full, replaced=False)]
        first, second = made.first[:rank], made.second[:, :rank]
        product = second @ first
        factorise(block, name, first, second, bias_for(weight, product, bias, ours.mean))
        lost = float((weight.double() - product).square().sum() / weight.double().square().sum())
        return [Cut(index, name, full, rank, lost=lost)]

    return Offer([whole, *options], take)


def bias_of(block: Block, name: str) -> Tensor | None:
    """The bias of a matrix as it acts; None for none, also for a masked key bias."""
    linear: Any = layer(block, name)
    if linear.bias is None:
        return None
    bias: Tensor = linear.bias.detach()
    if name in QKV and linear is block.attn.qkv:
        if isinstance(linear, KeyBiasMaskedLinear):
            bias = linear.effective_bias().detach()
            if name == "k":
                return None
        return bias.chunk(3)[QKV.index(name)]
    return bias


def equal_shares(methods: Sequence[str], budget: float) -> list[Step]:
    """Calibrated methods one after the other, each leaving the same share of what the one before left."""
    n = len(methods)
    return [Step(method, math.pow(budget, (i + 1) / n)) for i, method in enumerate(methods)]
