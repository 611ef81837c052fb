"""How fast a run could be if its cards did nothing but multiply: what its speed is a share of (MFU)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dinov3.distributed.context import world_size
from dinov3.system.cards import Card, card_of


@dataclass(frozen=True)
class Peak:
    """Of all processes together. Model FLOPs utilization is counted as Chowdhery et al. 2022 (PaLM, appendix B) do."""

    card: Card
    flops: float  # of one sample
    processes: int

    @property
    def samples_per_second(self) -> float:
        return self.card.tflops * 1e12 * self.processes / self.flops

    def line(self) -> str:
        """For the start-up block."""
        return (
            f"peak       {self.card.tflops:g} TFLOP/s a card (bf16), {self.flops / 1e9:,.0f} GFLOP an image: "
            f"100 % would be {self.samples_per_second:,.0f} images/s"
        )


def peak_of(device: torch.device, flops_of_a_sample: Callable[[], float | None]) -> Peak | None:
    """None on a device that is not in the table of cards, and for a kind of training whose operations nobody counts."""
    known = card_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    flops = None if known is None else flops_of_a_sample()
    return None if known is None or not flops else Peak(known, flops, world_size())
