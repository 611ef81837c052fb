"""Bytes moved and kernels started by the losses and by the colour changes of one step, plain and fused.

python -m benchmarks.bytes_moved            # ViT-B, batch 128: 9,831 masked patches, 65,536 prototypes; 256 images
python -m benchmarks.bytes_moved --masked 501 --prototypes 4096 --batch 4
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields

import torch

from benchmarks.traffic import Counter, Eager, Traffic, fake
from dinov3.losses import passes
from dinov3.losses.cross_entropy import dino_cross_entropy, ibot_cross_entropy
from dinov3.losses.diagnostics import prototype_usage, target_entropy
from dinov3.losses.passes import PLAIN, Passes
from dinov3.losses.sinkhorn import sinkhorn_targets


def losses_step(args: argparse.Namespace, form: Passes, device: str, *, logged: bool = False) -> None:
    """Targets, losses and gradients of one step in bf16, from logits; ``logged``: also the health of the targets."""

    def logits(*rows: int) -> torch.Tensor:
        return torch.empty(*rows, args.prototypes, dtype=torch.bfloat16, device=device)

    patches = sinkhorn_targets(logits(args.masked), 0.07, passes=form)
    cls = sinkhorn_targets(logits(2, args.batch), 0.07, passes=form)
    if logged:
        for targets in (patches, cls):
            target_entropy(targets, form)
            prototype_usage(targets, form)
        return
    weights = torch.empty(args.masked, device=device)
    student = logits(args.masked).requires_grad_()
    ibot = ibot_cross_entropy(student, patches, weights, 2 * args.batch, passes=form)
    of_global, of_local = logits(2, args.batch).requires_grad_(), logits(args.local, args.batch).requires_grad_()
    dino = dino_cross_entropy(of_global, cls, ignore_diagonal=True, passes=form)
    (ibot + dino + dino_cross_entropy(of_local, cls, passes=form)).backward()


def losses(args: argparse.Namespace, *, logged: bool = False) -> tuple[Traffic, Traffic]:
    """(plain, fused)."""
    eager = Eager()
    with eager:
        losses_step(args, PLAIN, "meta", logged=logged)
    counter = Counter()
    form = Passes(**{f.name: counter.compiled(getattr(passes, f.name)) for f in fields(Passes)})
    with fake(), counter.eager:
        losses_step(args, form, "cpu", logged=logged)
    return eager.traffic, counter.total()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masked", type=int, default=9831, help="masked patches of the step")
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--batch", type=int, default=128, help="images of the losses")
    parser.add_argument("--local", type=int, default=8, help="local crops of an image")
    args = parser.parse_args()
    sections: dict[str, Callable[[], tuple[Traffic, Traffic]]] = {
        "losses": lambda: losses(args),
        "targets and their health, on logged steps": lambda: losses(args, logged=True),
    }
    for name, count in sections.items():
        plain, fused = count()
        print(f"{name}\n  plain {plain}\n  fused {fused}   {plain.moved / fused.moved:.1f} times fewer bytes")


if __name__ == "__main__":
    main()
