"""What there is to look at when too many steps were not finite: ``RUN/not_finite/step-00000012/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.distributed.context import rank
from dinov3.distributed.shard import whole
from dinov3.engine.task import B, Task
from dinov3.runs.state import first_not_finite
from dinov3.system.files import write_json
from dinov3.weights.tensor_file import write_tensor_file


def write_dump(
    folder: Path,
    task: Task[B],
    batches: Sequence[B],
    figures: dict[str, Any],
    images: list[str],
) -> Path:
    """This process's batches of the step as tensors, and losses, norms, image names and the first bad tensor as JSON.

    Every process must call it. Of several batches, a tensor's name begins with the batch's number.
    ``figures``: what to put first, by name; tensors become numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{number}.{name}" if len(batches) > 1 else name: value.detach().cpu().contiguous()
        for number, batch in enumerate(batches)
        for name, value in _tensors_of(batch).items()
    }
    write_tensor_file(tensors, folder / f"process-{rank()}.safetensors")
    gradients = {name: whole(p.grad) for name, p in task.trained.named_parameters() if p.grad is not None}
    report = {
        **{k: float(v) if isinstance(v, Tensor) else v for k, v in figures.items()},
        "images": images,
        "first_tensor_not_finite": {
            "batch": first_not_finite(tensors),
            "gradients": first_not_finite(gradients),
            "state": first_not_finite(task.state()),
        },
        "largest_gradient": {n: float(g.abs().max()) for n, g in gradients.items() if bool(torch.isfinite(g).all())},
    }
    path = folder / f"process-{rank()}.json"
    write_json(path, report)
    return path


def _tensors_of(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch by name, whatever it is: a dataclass, a table, a tuple, a tensor."""
    if isinstance(batch, Tensor):
        return {"batch": batch}
    if isinstance(batch, tuple):
        parts = dict(zip(getattr(batch, "_fields", map(str, range(len(batch)))), batch, strict=True))
    else:
        parts = dict(batch) if isinstance(batch, Mapping) else vars(batch) if is_dataclass(batch) else {}
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}
