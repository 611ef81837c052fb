"""Bytes moved and kernels started by the losses and by the colour changes of one step, plain and fused.

python benchmarks/bytes_moved.py            # ViT-B, batch 128: 9,831 masked patches, 65,536 prototypes; 256 images
python benchmarks/bytes_moved.py --masked 501 --prototypes 4096 --batch 4 --images 8

Counted with real shapes and without memory to hold them. Eager operators are counted one by one: each reads its inputs
and writes its outputs once. (Some, like ``logsumexp``, are several kernels that read more: the count is too low.)
Compiled functions are counted as inductor schedules them on this machine: each kernel reads every buffer it uses once,
even one it goes over twice, and writes what it makes. The colours' own kernels are counted by what they load and store.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dinov3.config.schema import Config
from dinov3.data.augment import photometric
from dinov3.data.augment.augmentation import PHOTOMETRIC_DRAWS, Augmentation, CropParams, crop_params
from dinov3.data.augment.photometric import Normalization
from dinov3.data.crops import GLOBAL_CROPS, CropGeometry
from dinov3.losses import passes
from dinov3.losses.cross_entropy import dino_cross_entropy, ibot_cross_entropy
from dinov3.losses.diagnostics import prototype_usage, target_entropy
from dinov3.losses.passes import PLAIN, Passes
from dinov3.losses.sinkhorn import sinkhorn_targets

FREE = {
    "device",
    "detach",
    "alias",
    "lift_fresh",
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
}


@dataclass
class Traffic:
    """Bytes read and written, and kernels or operators started."""

    moved: int = 0
    launches: int = 0

    def __str__(self) -> str:
        return f"{self.moved / 1e9:8.2f} GB {self.launches:6d} launches"


class Eager(TorchDispatchMode):
    """Counts the operators that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic, self.paused = Traffic(), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.paused and not func.is_view and func._schema.name.split("::")[1] not in FREE:
            self.traffic.launches += 1
            read, written = tree_leaves((args, kwargs)), tree_leaves(out)
            self.traffic.moved += sum(size(x) for x in (*read, *written) if isinstance(x, Tensor))
        return out

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside is not counted."""
        self.paused, before = True, self.paused
        yield
        self.paused = before


def size(x: Tensor) -> int:
    """Bytes of memory behind ``x``: an expanded dimension is there once."""
    return x.element_size() * math.prod(n for n, s in zip(x.shape, x.stride(), strict=True) if s)


def inductor(function: Callable[..., Any], arguments: Sequence[Any]) -> Traffic:
    """Of ``function`` compiled as one graph, called with fake tensors and other values that become constants."""
    leaves, spec = tree_flatten(list(arguments))
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    mode = next(leaf.fake_mode for leaf in leaves if isinstance(leaf, Tensor))  # type: ignore[attr-defined]

    def of_tensors(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for i, tensor in zip(at, tensors, strict=True):
            filled[i] = tensor
        return function(*tree_unflatten(filled, spec))

    tensors = [leaves[i] for i in at]
    with mode, torch.no_grad(), mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        pure = torch.func.functionalize(of_tensors, remove="mutations")
        graph_module = make_fx(pure, decomposition_table=select_decomp_table())(*tensors)
    graph_module.graph.eliminate_dead_code()
    graph = GraphLowering(graph_module)
    with V.set_fake_mode(mode), V.set_graph_handler(graph), V.set_debug_handler(mock.MagicMock()), mode:
        graph.run(*tensors)
        graph._update_scheduler()
        moved, nodes, _ = graph.count_bytes()
    return Traffic(int(moved), sum(1 for _, elements in nodes if elements))


class Counter:
    """Counts a computation under fake tensors: compiled functions that ``compiled`` made, and eager operators around them."""

    def __init__(self) -> None:
        self.eager, self.parts = Eager(), dict[str, Traffic]()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Stands for ``torch.compile(function)``."""

        def run(*arguments: Any) -> Any:
            with self.eager.pause():
                cost, part = inductor(function, arguments), self.parts.setdefault(function.__name__, Traffic())
                part.moved, part.launches = part.moved + cost.moved, part.launches + cost.launches
                with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
                    return function(*arguments)

        return run

    def total(self) -> Traffic:
        every = [self.eager.traffic, *self.parts.values()]
        return Traffic(sum(t.moved for t in every), sum(t.launches for t in every))


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
    with FakeTensorMode(), counter.eager:
        losses_step(args, form, "cpu", logged=logged)
    return eager.traffic, counter.total()


def photometrics(args: argparse.Namespace) -> tuple[Traffic, Traffic]:
    """(plain, fused) of the crops of ``args.images`` images with the default augmentation, to bf16."""
    cfg = Config()
    geometry = CropGeometry.from_config(cfg)
    draws = np.random.default_rng(0).random((geometry.views, args.images, PHOTOMETRIC_DRAWS))
    params = crop_params(draws, Augmentation.from_config(cfg), geometry)
    n_global = GLOBAL_CROPS * args.images
    stacks = ((params[:n_global], geometry.global_size), (params[n_global:], geometry.local_size))
    eager, fused = Eager(), Traffic()
    for params_of, side in stacks:
        crops = torch.empty(len(params_of.gray), side, side, 3, dtype=torch.uint8, device="meta")
        with eager, mock.patch.object(photometric, "send", lambda x, device: x.to(device)):
            photometric.render(crops, params_of, normalization("meta"))
        cost = kernels(params_of, 3 * side * side)
        fused = Traffic(fused.moved + cost.moved, fused.launches + cost.launches)
    return eager.traffic, fused


def kernels(params: CropParams, values: int) -> Traffic:
    """Of ``photometric_kernels`` for crops of ``values`` bytes each: what each of its four kernels reads and writes."""
    crops, jittered, blurred = len(params.gray), int(params.jittered.sum()), int((params.sigma > 0).sum())
    moved = jittered * values  # the mean gray of contrast
    moved += (
        crops * values + (crops - blurred) * 2 * values + blurred * 4 * values
    )  # colours, to bf16 or, before blur, floats
    moved += blurred * (4 + 4 + 4 + 2) * values  # blur along rows and along columns
    return Traffic(moved, 4 if blurred else 2)


def normalization(device: str) -> Normalization:
    return Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), torch.bfloat16, torch.device(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masked", type=int, default=9831, help="masked patches of the step")
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--batch", type=int, default=128, help="images of the losses")
    parser.add_argument("--local", type=int, default=8, help="local crops of an image")
    parser.add_argument("--images", type=int, default=256, help="images of the colour changes")
    args = parser.parse_args()
    sections: dict[str, Callable[[], tuple[Traffic, Traffic]]] = {
        "losses": lambda: losses(args),
        "targets and their health, on logged steps": lambda: losses(args, logged=True),
        "colour changes": lambda: photometrics(args),
    }
    for name, count in sections.items():
        plain, fused = count()
        print(f"{name}\n  plain {plain}\n  fused {fused}   {plain.moved / fused.moved:.1f} times fewer bytes")


if __name__ == "__main__":
    main()
