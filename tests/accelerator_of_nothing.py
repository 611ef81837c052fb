"""An accelerator that computes nothing: tensors have a shape and a device and no values.

What mixes devices is an error on it as on a GPU, and ``Waits`` notes where the host would wait for one. For processes of
their own: torch lets a process have one such device, for good. It is private in torch and may be missing.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "nothing"


def start() -> bool:
    """Make the device known to this process; False when this torch has none."""
    try:
        from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
    except ImportError:
        return False

    class Backend(_DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    without_values()
    return True


class Waits(TorchDispatchMode):
    """Notes where the host reads a tensor of the device, or copies to it from pageable memory: each is a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        source = args[0].device.type if args and isinstance(args[0], Tensor) else None
        if func is torch.ops.aten._local_scalar_dense.default and source == NAME:
            self.note("read")
            return 1 if not args[0].is_floating_point() else 1.0
        if func is torch.ops.aten.index.Tensor and source == NAME:
            args = (args[0], [i for index in args[1] for i in self.numbers(index)])
        target = kwargs.get("device") if func is torch.ops.aten._to_copy.default else None
        if (
            target is not None
            and {source, torch.device(target).type} == {"cpu", NAME}
            and not kwargs.get("non_blocking")
        ):
            self.note("copy")
        return func(*args, **kwargs)

    def numbers(self, index: Tensor | None) -> list[Tensor | None]:
        """An index as numbers; a mask becomes the place of one element, after the host has asked how many it picks."""
        if index is None or index.dtype != torch.bool:
            return [index]
        self.note("read")
        return [torch.empty(1, dtype=torch.int64, device=index.device) for _ in range(index.dim())]

    def note(self, kind: str) -> None:
        frames = [f for f in traceback.extract_stack() if "/dinov3/" in f.filename]
        if frames:  # else a test did it, not the project
            where = f"{frames[-1].filename.rpartition('/dinov3/')[2]} {frames[-1].name}: {frames[-1].line}"
            self.places.append(f"{kind} in {where}")


def without_values() -> None:
    """What sets values reads them back in places; there are none here."""

    def to_empty(module: nn.Module, *, device: Any, recurse: bool = True) -> nn.Module:
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    like = torch.empty(value.shape, dtype=value.dtype, device=device)
                    part._parameters[name] = nn.Parameter(like, requires_grad=value.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
        return module

    def tolist(x: Tensor) -> list[Any]:
        return [part.item() for part in x.unbind()] if x.dim() else x.item()  # type: ignore[return-value]

    class OnCpu(torch.Generator):  # the device has none of its own
        def __new__(cls, device: Any = "cpu") -> OnCpu:
            return super().__new__(cls, "cpu")  # type: ignore[call-arg]

    torch.Generator = OnCpu  # type: ignore[misc]
    nn.Module.to_empty = to_empty  # type: ignore[assignment]
    nn.init.trunc_normal_ = lambda tensor, *_, **__: tensor
    Tensor.tolist = tolist  # type: ignore[method-assign,assignment]
