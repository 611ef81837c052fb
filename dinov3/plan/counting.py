"""What operators multiply, hold and send, counted while they run on tensors without values."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
Flops = Callable[..., int]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


# Attention on a CPU is an operator torch's counter passes over. It is counted as that of a GPU is: two products forward,
# five backward (the scores are computed again).
ON_CPU: dict[Any, Flops] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Sent(NamedTuple):
    """One kind of collective."""

    operation: str  # as torch.distributed has it: allreduce_, _allgather_base_, ...
    bytes: int  # of the whole: summed, or gathered, or before it is scattered
    processes: int


def on_the_wire(sent: Sent) -> float:
    """Bytes each process sends for it in a ring: twice (n - 1) / n of a sum, once of a gather or a scatter."""
    share = (sent.processes - 1) / sent.processes
    return sent.bytes * share * (2 if sent.operation.startswith("allreduce") else 1)


# What DTensor calls, by the name of what torch.distributed calls for the same.
FUNCTIONAL = {
    "all_reduce": "allreduce_",
    "all_gather_into_tensor": "_allgather_base_",
    "reduce_scatter_tensor": "_reduce_scatter_base_",
}
SENDING = ("c10d", "_c10d_functional")  # namespaces


def _collective(func: Any, args: Any, out: Any) -> Sent | None:
    """What an operator of ``SENDING`` sends; None for those that send nothing (a wait)."""
    name = func._schema.name.split("::")[1]
    tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    if func.namespace == "_c10d_functional":
        if name == "wait_tensor":
            return None
        size = torch.distributed.distributed_c10d._resolve_process_group(args[-1]).size()
        return Sent(FUNCTIONAL.get(name, name), max(t.nbytes for t in [*tensors, *tree_leaves(out)]), size)
    groups = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.ScriptObject)]
    if not tensors or not groups:
        return None
    size = next((n for g in groups if (n := _processes(g)) is not None), 1)
    # one tensor is the whole of it: the output of a gather, the input of a scatter
    whole = max(t.nbytes for t in tensors)
    if name == "allgather_":  # a list of parts
        whole = sum(t.nbytes for t in tree_leaves(args[0]))
    return Sent(name, whole, size)


def _processes(group: torch.ScriptObject) -> int | None:
    try:
        return int(torch.distributed.ProcessGroup.unbox(group).size())
    except (RuntimeError, TypeError):  # a script object of another kind: a reduction
        return None


@dataclass
class Count:
    """What was counted."""

    flops: int = 0
    sent: Counter[Sent] = field(default_factory=Counter)
    launches: int = 0
    log: list[tuple[int, int]] = field(default_factory=list)  # (number of the memory, bytes: 0 when it is given back)
    held: int = 0


class Counting(TorchDispatchMode):
    """Counts what runs under it. Memory is that behind tensors: views cost nothing, what dies is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.count = Count()
        self._numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace in SENDING and (sent := _collective(func, args, out)) is not None:
            self.count.sent[sent] += 1
        if func.namespace == "c10d":  # in place
            return out
        packet = func._overloadpacket
        formula = ON_CPU.get(packet) or flop_registry.get(packet)
        if formula is not None:
            self.count.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        if not func.is_view:
            self.count.launches += 1
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self.see(leaf)
        return out

    def see(self, tensor: Tensor) -> int:
        """The number of the memory behind ``tensor``, which is counted from now on until it is given back."""
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[storage] = number
            self.count.log.append((number, storage.nbytes()))
            weakref.finalize(storage, self.count.log.append, (number, 0))
        return number

    def resized(self, storage: Any) -> None:
        """FSDP2 gives the memory of gathered weights back, and takes it again, without a tensor dying."""
        if (number := self._numbers.get(storage)) is not None:
            self.count.log.append((number, storage.nbytes()))

    @contextmanager
    def watching_resizes(self) -> Iterator[None]:
        """``resized`` is called for every storage that changes its size inside."""
        original = torch.UntypedStorage.resize_

        def resize(storage: Any, size: int) -> Any:
            result = original(storage, size)
            self.resized(storage)
            return result

        torch.UntypedStorage.resize_ = resize  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]


def at_the_peak(log: Iterable[tuple[int, int]], kinds: dict[int, str], rest: str) -> dict[str, int]:
    """Bytes of each kind of memory at the moment when most is held; ``rest``: the kind of what ``kinds`` does not name."""
    sizes: dict[int, int] = {}
    held, most, then = 0, -1, 0
    events = list(log)
    for moment, (number, size) in enumerate(events):
        held += size - sizes.get(number, 0)
        sizes[number] = size
        if held > most:
            most, then = held, moment
    sizes.clear()
    for number, size in events[: then + 1]:
        sizes[number] = size
    found: Counter[str] = Counter()
    for number, size in sizes.items():
        found[kinds.get(number, rest)] += size
    return dict(found)
