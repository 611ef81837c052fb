"""What GPUs can do, as their makers state it: dense matrix products in bf16 and memory."""

from __future__ import annotations

import re
from typing import NamedTuple


class Card(NamedTuple):
    """One kind of GPU."""

    name: str  # as ``dinov3 plan --card`` takes it
    called: str  # what torch.cuda.get_device_name has in it
    tflops: float  # dense, 10**12 operations a second, bf16 with sums in fp32
    memory: float  # bytes
    machine: int = 8  # GPUs usually in one machine


# The first whose ``called`` stands in a device's name is that device: longer names before shorter ones.
CARDS = (
    Card("b200", "B200", 2250, 180e9),
    Card("h200", "H200", 989, 141e9),
    Card("h100-pcie", "H100 PCIe", 756, 80e9),
    Card("h100", "H100", 989, 80e9),
    Card("a100-40", "A100-SXM4-40GB", 312, 40e9),
    Card("a100-40-pcie", "A100-PCIE-40GB", 312, 40e9),
    Card("a100", "A100", 312, 80e9),
    Card("l40s", "L40S", 362, 48e9),
    Card("l4", "NVIDIA L4", 121, 24e9),
    Card("a10", "NVIDIA A10", 125, 24e9),
    Card("rtx4090", "RTX 4090", 165, 24e9, machine=1),
    Card("rtx3090", "RTX 3090", 71, 24e9, machine=1),
)

VARIANTS = "Ti|NVL|D|Laptop|Max-Q|SUPER"  # behind a name: another card


def card(name: str) -> Card | None:
    """The card of that name in ``CARDS``."""
    return next((known for known in CARDS if known.name == name.lower()), None)


def card_of(device_name: str) -> Card | None:
    """The card that a device calling itself so is; None when it is not in the table.

    An L40 is no L4, an A10G no A10, and what is called Ti, NVL, D or Laptop has other figures.
    """
    return next((c for c in CARDS if re.search(rf"{re.escape(c.called)}(?!\w| (?:{VARIANTS})\b)", device_name)), None)
