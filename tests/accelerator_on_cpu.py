"""An accelerator that computes on the CPU: its tensors have values, and whatever a GPU would refuse is refused.

Refused are operations that mix devices, ``.numpy()`` of its tensors, and drawing on it with a generator of the CPU.
``accelerator_of_nothing`` is quicker and shows waits, but cannot follow what depends on values. For processes of their
own: torch lets a process have one such device, for good. It is private in torch and may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "pretended"
computed = 0  # operations whose results lie there
aten: Any = torch.ops.aten
MAY_MIX = (aten._to_copy.default, aten.copy_.default, aten._pin_memory.default, aten.is_pinned.default)
# These make their tensor without asking a device written in Python, or resize it, which such a tensor cannot be.
FACTORIES = ("tensor", "as_tensor", "arange", "linspace", "eye", "randperm")
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class There(Tensor):
    """A tensor of the accelerator; ``inner`` holds its values on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"There({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(without_lists(index), value)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return on_cpu(func, args, kwargs or {})


def on_cpu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What ``func`` gives, computed on the CPU; it lies where the inputs, or ``device=``, say."""
    flat, form = tree_flatten((args, kwargs))
    there = any(isinstance(value, There) for value in flat)
    if "device" in kwargs and kwargs["device"] is not None:
        there = torch.device(kwargs["device"]).type == NAME
    elif func is aten.copy_.default:
        there = isinstance(args[0], There)
    for generator in (value for value in flat if isinstance(value, torch._C.Generator)):
        refuse_generator(func, generator, there=there)
    refuse_mixtures(func, args, flat)
    plain_args, plain_kwargs = tree_unflatten([v.inner if isinstance(v, There) else v for v in flat], form)
    if "device" in plain_kwargs and there:
        plain_kwargs["device"] = torch.device("cpu")
    plain_kwargs.pop("pin_memory", None)
    plain_kwargs = {k: v for k, v in plain_kwargs.items() if k != "non_blocking"}
    if func is aten._to_copy.default and plain_args[0] is not args[0] and not there:
        return func(*plain_args, **plain_kwargs)  # to the CPU: always a copy
    found = func(*plain_args, **plain_kwargs)
    if not there:
        return found
    global computed
    computed += 1
    wrapped = tree_map(lambda v: There(v) if isinstance(v, Tensor) and not isinstance(v, There) else v, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def without_lists(index: Any) -> Any:
    """An index whose lists are tensors: torch makes them so without asking a device that is written in Python."""
    if isinstance(index, tuple):
        return tuple(without_lists(part) for part in index)
    return torch.tensor(index) if isinstance(index, list | np.ndarray) else index


def made_here(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A factory of ``FACTORIES``: made on the CPU and sent there."""

    @wraps(make)
    def made(*args: Any, **options: Any) -> Tensor:
        device, requires = options.pop("device", None), options.pop("requires_grad", False)
        there = device is not None and torch.device(device).type == NAME
        if args and isinstance(args[0], There):  # torch.tensor of a tensor
            return args[0] if device is None else args[0].to(device, options.get("dtype", args[0].dtype))
        refuse_generator(make, options.get("generator"), there=there)
        found = make(*args, **options) if there or device is None else make(*args, device=device, **options)
        return (found.to(device) if there else found).requires_grad_(requires)

    return made


def refuse_generator(what: Any, generator: Any, *, there: bool) -> None:
    if there and generator is not None and generator._cdata not in Generator.asked_there:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu' in {what}")


def refuse_mixtures(func: Any, args: tuple[Any, ...], flat: list[Any]) -> None:
    """The rule of CUDA: one device, but for scalars in tensors, copies, and indices of the CPU."""
    if func in MAY_MIX:
        return
    if func in INDEXED and isinstance(args[0], There):
        flat = [args[0], *(v for v in tree_flatten(args[2:])[0])]
    tensors = [v for v in flat if isinstance(v, Tensor)]
    here = [v for v in tensors if not isinstance(v, There)]
    if not any(isinstance(v, There) for v in tensors):
        return
    scalars_may = torch.Tag.pointwise in func.tags or func in INDEXED
    if [v for v in here if not (scalars_may and v.dim() == 0)]:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu, in {func}")


class Generator(torch.Generator):
    """Draws on the CPU; which were asked for there is remembered, as torch keeps no attribute of them."""

    asked_there: ClassVar[dict[int, torch.Generator]] = {}  # kept alive: addresses would be given again

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        if torch.device(device).type == NAME:
            cls.asked_there[made._cdata] = made  # type: ignore[attr-defined]
        return made


_kept: list[Any] = []  # a library's kernels go with it


def start() -> bool:
    """Make the device known to this process; False when this torch has none."""
    try:
        from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
    except ImportError:
        return False

    class Backend(_DummyBackendModule):
        """What torch asks the module of a device for; its one stream is never behind."""

        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

        def current_stream(self, *_: object) -> Backend:
            return self

        def stream(self, *_: object) -> AbstractContextManager[None]:
            return nullcontext()

        def synchronize(self, *_: object) -> None:
            pass

    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    torch.Generator = Generator  # type: ignore[misc]
    # tensors of inference mode have no version, which such a device's views need
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else nullcontext()  # type: ignore[misc,assignment]
    for name in FACTORIES:
        setattr(torch, name, made_here(getattr(torch, name)))
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda func, *args, **kwargs: on_cpu(func, args, kwargs), "PrivateUse1")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _kept.append(library)
    return True
