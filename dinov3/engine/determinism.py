"""A run whose every number is a function of its config: ``train.deterministic``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from dinov3.config.run_config import RunConfig

WORKSPACE, VALUE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"  # else cuBLAS may sum in another order (NVIDIA's manual, 2.1.4)


@contextmanager
def determinism(cfg: RunConfig) -> Iterator[list[str]]:
    """As ``train.deterministic`` says, inside; lines for the start-up block. Enter it before CUDA starts.

    Operators that have no deterministic form raise RuntimeError. On CPUs a run with the same number of threads is
    deterministic without it.
    """
    if not cfg.train.deterministic:
        yield []
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled, cudnn = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.deterministic  # type: ignore[attr-defined]
    attention = torch.backends.cuda.cudnn_sdp_enabled()
    os.environ.setdefault(WORKSPACE, VALUE)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads what it did not write
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass adds with atomics; flash attention's need not
    try:
        with _compiled_alike(cfg):
            yield [
                "repeatable train.deterministic: the same numbers again on this kind of machine, with this torch and as many processes"
            ]
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = cudnn
        torch.backends.cuda.enable_cudnn_sdp(attention)


def _compiled_alike(cfg: RunConfig) -> AbstractContextManager[object]:
    """Kernels of the compiler are not chosen by how fast they were just now."""
    if cfg.train.device == "cpu" or not torch.cuda.is_available():
        return nullcontext()
    import torch._inductor.config as inductor  # late: it takes seconds, and only GPUs compile

    return inductor.patch(deterministic=True)
