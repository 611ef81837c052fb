"""What there is to look at when too many steps were not finite: ``RUN/not_finite/step-00000012/``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.contracts import CropBatch
from dinov3.distributed.context import rank
from dinov3.distributed.shard import whole
from dinov3.runs.state import first_not_finite
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.weights.tensor_file import write_tensor_file


def write_dump(
    folder: Path,
    model: SSLMetaArch,
    batches: Sequence[CropBatch],
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
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    write_tensor_file(tensors, folder / f"process-{rank()}.safetensors")
    gradients = {name: whole(p.grad) for name, p in model.student.named_parameters() if p.grad is not None}
    report = {
        **{k: float(v) if isinstance(v, Tensor) else v for k, v in figures.items()},
        "images": images,
        "first_tensor_not_finite": {
            "batch": first_not_finite(tensors),
            "gradients": first_not_finite(gradients),
            "state": first_not_finite(model.checkpoint_state()),
        },
        "largest_gradient": {n: float(g.abs().max()) for n, g in gradients.items() if bool(torch.isfinite(g).all())},
    }
    path = folder / f"process-{rank()}.json"
    path.write_text(json.dumps(report, indent=1))
    return path
