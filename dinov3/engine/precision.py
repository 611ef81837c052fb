"""Which number format the matrix products run in, decided once from the config and the hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Precision:
    """The decision and its reason. Weights, losses and the optimizer stay in fp32 whatever ``dtype`` is."""

    dtype: torch.dtype
    device: torch.device
    reason: str

    @property
    def name(self) -> str:
        return next(n for n, d in DTYPES.items() if d == self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """The context the forward pass runs in."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


class NumberFormats(Protocol):
    """A config's block ``compute_precision``."""

    @property
    def param_dtype(self) -> str: ...
    @property
    def cpu_dtype(self) -> str: ...


def resolve_block(compute_precision_cfg: NumberFormats, device: torch.device) -> Precision:
    """``resolve`` for both keys of a config's block."""
    return resolve(compute_precision_cfg.param_dtype, device, compute_precision_cfg.cpu_dtype)


def multiplies_bf16() -> bool:
    """Whether this processor has instructions that multiply bf16 matrices: AMX (Intel's Xeons since Sapphire Rapids, 2023)
    or AVX-512's (AMD since Zen 4, 2022). On one thread products were 4 to 10 times faster than in fp32 with AMX, and 2 to 3
    times with AVX-512.
    """
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def resolve(param_dtype: str, device: torch.device, cpu_dtype: str | None = None) -> Precision:
    """bf16 where it was asked for and the hardware has it, fp32 otherwise.

    fp16 would need loss scaling, which this project does not do: asking for it on a GPU that has bf16 gives bf16,
    and on one that has not (compute capability below 8.0) fp32. On a CPU ``cpu_dtype`` decides between fp32, bf16 and, with
    auto, the faster one; without it a CPU runs in fp32.
    """
    if param_dtype == "fp32":
        return Precision(
            torch.float32, device, "compute_precision.param_dtype is fp32" if cpu_dtype else "as the config says"
        )
    if device.type == "cpu" and cpu_dtype is not None:
        return _on_a_cpu(cpu_dtype, device)
    if device.type != "cuda":
        asked = "bf16" if param_dtype == "auto" else param_dtype
        return Precision(torch.float32, device, f"{asked} autocast is for GPUs, {device.type} runs in fp32")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        why = "the GPU has bf16" if param_dtype == "bf16" else "fp16 needs loss scaling, the GPU has bf16"
        return Precision(torch.bfloat16, device, why)
    return Precision(torch.float32, device, f"{torch.cuda.get_device_name(device)} has no bf16")


def _on_a_cpu(asked: str, device: torch.device) -> Precision:
    able = multiplies_bf16()
    if asked == "auto":
        why = "this processor multiplies matrices in bf16" if able else "this processor does not multiply in bf16"
        return Precision(torch.bfloat16 if able else torch.float32, device, why)
    if asked == "bf16":
        slow = "" if able else "; this processor does not multiply in it, fp32 may be faster"
        return Precision(torch.bfloat16, device, f"compute_precision.cpu_dtype is bf16{slow}")
    hint = "; auto would be bf16, which this processor multiplies faster" if able else ""
    return Precision(torch.float32, device, f"compute_precision.cpu_dtype is fp32{hint}")
