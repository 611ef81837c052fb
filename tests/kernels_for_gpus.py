"""Triton kernels compiled for a GPU that is not there: the whole way to machine code, of which nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

A100, H100 = 80, 90
NAMES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8"}


class Compiled:
    """In the place of a kernel: compiles it for the arguments it is started with; ``ptx`` has a listing a start."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel, self.capability = kernel, capability
        self.ptx: list[str] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.compile

    def compile(self, *args: Any, **kwargs: Any) -> None:
        import triton
        from triton.backends.compiler import GPUTarget

        names = list(self.kernel.arg_names)
        values = dict(zip(names, args, strict=False)) | kwargs
        fixed = [p.name for p in self.kernel.params if p.is_constexpr]
        signature = {name: "constexpr" if name in fixed else _kind(values[name]) for name in names}
        aligned = [n for n, v in values.items() if n not in fixed and (isinstance(v, Tensor) or v % 16 == 0)]
        source = triton.compiler.ASTSource(
            fn=self.kernel,
            signature=signature,
            constexprs={name: values[name] for name in fixed},
            attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
        )
        built = triton.compile(source, target=GPUTarget("cuda", self.capability, 32))
        assert built.asm["cubin"]
        self.ptx.append(built.asm["ptx"])


def _kind(value: Tensor | int) -> str:
    return NAMES[value.dtype] if isinstance(value, Tensor) else "i32" if abs(value) < 2**31 else "i64"


@contextmanager
def compiled(module: ModuleType, names: list[str], capability: int) -> Iterator[dict[str, Compiled]]:
    """The kernels ``names`` of ``module`` are compiled when they would be started."""
    kernels = {name: Compiled(getattr(module, name), capability) for name in names}
    with patch.multiple(module, **kernels):
        yield kernels
