"""What the official DINOv3 code needed for a training step, to be printed beside what is measured here.

GPU: one H200 (bf16 matrix product 798 TFLOP/s), torch 2.11, compile on, one process, synthetic input; 2 global crops of
256 and 8 local ones of 112, patch 16, 4 storage tokens, 65,536 prototypes in both heads, half the crops masked, AdamW.
CPU: two cores, ViT-S/16, 2 x 224 + 8 x 96, batch 8, 2 x 65,536 prototypes, fp32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class Official:
    """One measured line of the official code."""

    machine: str
    arch: str
    batch: int
    drop_path: float
    seconds_per_step: float
    images_per_second: float
    peak_gib: float

    def row(self) -> dict[str, Any]:
        return asdict(self)


H200 = "one H200"
OFFICIAL_GPU = (
    Official(H200, "vit_small", 128, 0.1, 0.1709, 749, 33),
    Official(H200, "vit_small", 256, 0.1, 0.3024, 847, 65),
    Official(H200, "vit_base", 128, 0.1, 0.2893, 442, 54),
    Official(H200, "vit_large", 64, 0.3, 0.3221, 199, 53),
    Official(H200, "vit_large", 128, 0.3, 0.6095, 210, 100),
)
OFFICIAL_CPU = Official("two idle CPU cores", "vit_small", 8, 0.0, 6.7, 1.19, round(4.66e9 / GIB, 2))
OFFICIAL_LOADER = 259  # images/s, 16 workers on the H200's machine
# What the step here is to reach, in images/s over the official figure, and of the step when fed from files.
TARGETS = {"vit_small": 2.2, "vit_base": 1.7, "vit_large": 1.35}
END_TO_END = 0.95


def official(arch: str, batch: int, device_type: str) -> Official | None:
    """The official figure of this kind of device: on a GPU that of the same architecture at the nearest batch, or None."""
    if device_type != "cuda":
        return OFFICIAL_CPU
    same = [line for line in OFFICIAL_GPU if line.arch == arch]
    return min(same, key=lambda line: abs(line.batch - batch), default=None)
