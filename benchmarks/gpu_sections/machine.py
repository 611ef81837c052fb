"""Section A: what the card can do, and which attention kernels torch picks for the two crop sizes."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_sections.plan import Settings
from benchmarks.gpu_sections.report import NotHere, Row, SectionReport, device_of
from benchmarks.measure import cost_of

# crops and tokens of each: 256 px and 112 px in patches of 16, with cls and 4 storage tokens, and lengths between them
SHAPES = ((256, 261), (1024, 54), (1024, 69), (512, 101), (512, 149))
HEADS, HEAD_DIM = 12, 64  # ViT-B


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    with report.item("machine") as row:
        row |= machine(device)
    with report.item("bf16 matrix product") as row:
        n = 256 if settings.tiny else 8192
        a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
        cost = cost_of(lambda: a @ b, device, repeats=3 if settings.tiny else 20)
        row |= {"size": n, "tflops": round(2 * n**3 / cost.ms / 1e9, 1), **cost.row()}
    with report.item("copy on the device") as row:
        n = 2**20 if settings.tiny else 2**32
        source = torch.empty(n, device=device, dtype=torch.uint8)
        target = torch.empty_like(source)
        cost = cost_of(partial(target.copy_, source), device, repeats=10)
        row |= {"bytes": n, "gb_per_second_read_and_written": round(2 * n / cost.ms / 1e6, 1)}
        del source, target
    with report.item("copy from pinned memory") as row:
        if device.type != "cuda":
            raise NotHere("there is no other memory than the host's")
        host = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        cost = cost_of(lambda: host.to(device, non_blocking=True), device, repeats=5)
        row |= {"bytes": host.numel(), "gb_per_second": round(host.numel() / cost.ms / 1e6, 1)}
    for crops, tokens in SHAPES:
        with report.item(f"attention of {crops} crops, {tokens} tokens") as row:
            row |= attention(device, 2 if settings.tiny else crops, tokens)


def machine(device: torch.device) -> Row:
    found: Row = {"cpus": os.cpu_count(), "python": platform.python_version(), "threads": torch.get_num_threads()}
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        found["driver"] = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        found["driver"] = f"not known: {error}"
    return found | {
        "compute_capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def attention(device: torch.device, crops: int, tokens: int) -> Row:
    """The backend torch chooses, and what every backend costs, forward and backward."""
    shape = (crops, tokens, HEADS, HEAD_DIM)  # as the model has them: heads are views of one projection
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(shape, device=device, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3))
    upstream = torch.randn_like(q)

    def forward_and_backward() -> Any:
        return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), upstream)

    row: Row = {"crops": crops, "chosen": SDPBackend(torch._fused_sdp_choice(q, k, v)).name}
    row["default"] = cost_of(forward_and_backward, device, repeats=5).row()
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                row[backend.name] = cost_of(forward_and_backward, device, repeats=5).row()
        except RuntimeError as error:  # this backend does not take such tensors here
            row[backend.name] = str(error).partition("\n")[0][:200]
    return row
