"""Counting what a computation moves and launches, with real shapes and without memory to hold them.

Eager operators are counted one by one: each reads its inputs and writes its outputs once. (Some, like ``logsumexp``, are
several kernels that read more: the count is too low.) Compiled functions are counted as inductor schedules them on this
machine: each kernel reads every buffer it uses once and writes what it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

FREE = {"device", "detach", "alias", "lift_fresh", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


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
    with mode, torch.no_grad(), mock.patch.object(torch.compiler, "is_compiling", lambda: True):
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
                with mock.patch.object(torch.compiler, "is_compiling", lambda: True):
                    return function(*arguments)

        return run

    def total(self) -> Traffic:
        every = [self.eager.traffic, *self.parts.values()]
        return Traffic(sum(t.moved for t in every), sum(t.launches for t in every))


def fake() -> FakeTensorMode:
    """Tensors inside have shapes and no memory."""
    return FakeTensorMode()
