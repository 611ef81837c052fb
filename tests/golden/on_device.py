"""What lets a GPU be held to numbers that a CPU made: the CPU's random draws, and products of full fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FACTORIES = frozenset({torch.randperm, torch.rand, torch.randn, torch.randint})
IN_PLACE = frozenset({Tensor.uniform_, Tensor.normal_})


class DrawnOnCpu(TorchFunctionMode):
    """Random numbers that would be drawn on another device come from the CPU's generator and are moved there.

    Draws from a generator that was given stay as they are: weights, which a case overwrites.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if options.get("generator") is None and func in FACTORIES and elsewhere(device := options.get("device")):
            return func(*args, **{**options, "device": "cpu"}).to(device)
        if options.get("generator") is None and func in IN_PLACE and elsewhere(args[0].device):
            return args[0].copy_(func(torch.empty_like(args[0], device="cpu"), *args[1:], **options))
        return func(*args, **options)


def elsewhere(device: Any) -> bool:
    """Whether numbers drawn on this device would be others than the CPU's."""
    return device is not None and torch.device(device).type not in ("cpu", "meta")


@contextmanager
def exact_products() -> Iterator[None]:
    """fp32 matrix products and convolutions in fp32. cuDNN's are in TF32 by default, 10 bits of mantissa."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = False, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
