"""``photometric.render`` in four kernels from uint8 to the model's number format, on GPUs.

The operators of ``photometric`` are many and short: 1,719 launches and 136 GB for 256 images.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.augment import photometric as plain
from dinov3.data.augment.augmentation import JITTER_OPS, CropParams
from dinov3.data.augment.photometric import RADIUS, TAPS, Normalization, blur_weights
from dinov3.distributed.transfer import send

NEVER = -1.0  # in place of an operation, for crops that are not jittered


def why_not(device: torch.device) -> str | None:
    """Why this form cannot be used for crops on ``device``; None: it can."""
    if device.type != "cuda":
        return f"their kernels are for GPUs, crops are on {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "their kernels need triton, which is not installed"
    return None


def render(
    crops: Tensor,
    params: CropParams,
    normalization: Normalization,
    *,
    photometric: bool = True,
    clean_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As ``photometric.render``, up to rounding. Crops with stain normalisation are left to the operators there."""
    from dinov3.data.augment.photometric_kernels import launch  # late: a CPU need not have triton

    if not len(crops) or (photometric and params.stained.any()):
        return plain.render(crops, params, normalization, photometric=photometric, clean_size=clean_size)
    crops = crops.contiguous()
    values = send(torch.from_numpy(table(params)), crops.device)
    mean, std, dtype = normalization.mean, normalization.std, normalization.dtype
    blurs = bool((params.sigma > 0).any())
    out = launch(crops, values, mean, std, dtype, recolors=photometric, blurs=blurs)
    if clean_size is None:
        return out, None
    if crops.shape[1:3] == (clean_size, clean_size):
        return out, launch(crops, values, mean, std, dtype, recolors=False, blurs=False)
    clean = torch.empty(*out.shape[:2], clean_size, clean_size, dtype=dtype, device=crops.device)
    zero, one = torch.zeros_like(mean), torch.ones_like(std)
    unit = launch(crops, values, zero, one, torch.float32, recolors=False, blurs=False)
    normalization.write(plain.resized(unit, clean_size), clean)
    return out, clean


def table(params: CropParams) -> NDArray[np.float32]:
    """All parameters of N crops as one matrix, so that they travel in one piece. ``photometric_kernels`` has the columns."""
    n = len(params.gray)
    columns = [params.mirrored, params.upside_down, params.turns, params.gray, params.solarized, params.sigma > 0]
    order = np.where(params.jittered[:, None], params.order, NEVER)
    weights = np.zeros((n, TAPS))
    weights[:, RADIUS] = 1.0  # no blur
    blurred = params.sigma > 0
    weights[blurred] = blur_weights(params.sigma[blurred])
    assert order.shape == (n, len(JITTER_OPS))
    return np.column_stack([*columns, order, params.factors, weights]).astype(np.float32)
