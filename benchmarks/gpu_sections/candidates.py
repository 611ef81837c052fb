"""Section N: what a ViT-B step could be made of next, beside what it is made of, at its sizes; bytes that must be moved tell
how far each is from what memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_sections.losses import relative
from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import Row, SectionReport, device_of
from benchmarks.measure import cost_of
from dinov3.models.attention import SelfAttention
from dinov3.models.execution import Execution
from dinov3.models.rotary.embedding import RopePositionEmbedding

HEADS, DIM = 12, 768
ENTRIES = {"global": (256, 16), "local": (1024, 7)}  # crops of a batch of 128, patches a side
PREFIX = 5
TOLERANCE = 1e-2  # relative L2, in bf16
# Abramowitz and Stegun 7.1.26: erfc(x) = (a1 t + ... + a5 t^5) exp(-x^2), t = 1 / (1 + p x), x >= 0; off by 1.5e-7 at most
P, A = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    repeats = 1 if settings.tiny else 20
    for name, (crops, side) in ENTRIES.items() if not settings.tiny else (("tiny", (2, 2)),):
        with report.item(f"heads of {name} crops, split and rotated, forward and backward") as row:
            row |= heads(crops, side, device, repeats)
    with report.item("GELU of a block, forward and backward") as row:
        row |= gelus(64 if settings.tiny else 122112, 4 * DIM, device, repeats)


def heads(crops: int, side: int, device: torch.device, repeats: int) -> Row:
    """What the compiler makes of the operators, and the operation with kernels of its own."""
    rope = RopePositionEmbedding(DIM // HEADS, dtype="fp32").to(device)
    rope.init_weights()
    rotation = rope.rotation(side, side, PREFIX)
    generator = torch.Generator(device).manual_seed(0)
    tokens = side * side + PREFIX
    qkv = torch.randn(crops, tokens, 3 * DIM, generator=generator, device=device).bfloat16().requires_grad_()
    # as attention gives them: [N, heads, T, D_head] that lie as [N, T, heads, D_head]
    shape = (crops, tokens, HEADS, DIM // HEADS)
    given = [torch.randn(shape, generator=generator, device=device).bfloat16().transpose(1, 2) for _ in range(3)]
    forms: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {}
    for name, execution in (("compiled", Execution()), ("kernels", Execution(fused_rotation=True))):
        attention = SelfAttention(DIM, HEADS, qkv_bias=True, proj_bias=True, mask_k_bias=False)
        attention.execution = execution
        form = compiled(attention.heads, device)
        forms[name] = lambda x, form=form: form(x, rotation)
    moved = 2 * 2 * qkv.numel() * 2  # read and written, forward and backward, two bytes each
    return beside(forms, qkv, given, moved, device, repeats)


def compiled(form: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """As training compiles a backbone: a graph for each size, none for all."""
    backend = "inductor" if device.type == "cuda" else "eager"
    return torch.compile(form, backend=backend, fullgraph=True, dynamic=False)


def gelus(rows: int, width: int, device: torch.device, repeats: int) -> Row:
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, width, generator=generator, device=device).mul_(2).bfloat16().requires_grad_()
    given = [torch.randn(rows, width, generator=generator, device=device).bfloat16()]
    forms: dict[str, Callable[[Tensor], Sequence[Tensor]]] = {}
    for name, form in (("compiled", F.gelu), ("polynomial", gelu)):
        made = compiled(form, device)
        forms[name] = lambda x, made=made: (made(x),)
    return beside(forms, x, given, (2 + 3) * x.numel() * 2, device, repeats)


class _Gelu(torch.autograd.Function):
    """The exact GELU with erf by a polynomial: an exponential, a division and eight products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        wide = x.float()
        return (wide * _normal(wide)[0]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        wide = ctx.saved_tensors[0].float()
        below, bell = _normal(wide)
        return (grad.float() * (below + wide * bell * 0.3989422804014327)).to(grad.dtype)


def gelu(x: Tensor) -> Tensor:
    return _Gelu.apply(x)


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """The share of a normal distribution below ``x``, and exp(-x^2 / 2)."""
    bell, t = (-0.5 * x * x).exp(), 1 / (1 + P * 0.7071067811865476 * x.abs())
    tail = torch.full_like(t, A[-1])
    for a in reversed(A[:-1]):
        tail = tail * t + a
    tail = 0.5 * tail * t * bell
    return torch.where(x < 0, tail, 1 - tail), bell


def beside(
    forms: dict[str, Callable[[Tensor], Sequence[Tensor]]],
    x: Tensor,
    given: Sequence[Tensor],
    moved: int,
    device: torch.device,
    repeats: int,
) -> Row:
    """Milliseconds of each form, forward and backward, in turns; the share of ``moved`` bytes a second; agreement."""
    first, second = ((*form(x), *torch.autograd.grad(form(x), x, given)) for form in forms.values())
    worst = max(relative(b.detach(), a.detach()) for a, b in zip(first, second, strict=True))
    row: Row = {"relative_difference": worst, "tolerance": TOLERANCE, "passed": worst <= TOLERANCE}
    for turn in (1, 2):
        for name, form in forms.items():
            cost = cost_of(lambda: torch.autograd.grad(form(x), x, given), device, repeats=repeats)  # noqa: B023
            row[f"{name}_ms_{turn}"] = round(cost.ms, 3)
            row[f"{name}_gb_s_{turn}"] = round(moved / cost.ms / 1e6)
    return row
