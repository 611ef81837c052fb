"""In which of its forms a vision transformer is computed. All of them are the same function up to rounding, and drop path
has the same law in all.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dinov3.config.derived import fused
from dinov3.config.schema import Config


@dataclass(frozen=True)
class Execution:
    """The plain form is the default: what the golden numbers were computed with."""

    narrow_residual: bool = False
    """Tokens between blocks have the number format of matrix products, fp32 otherwise. Nothing changes without autocast."""
    fused: bool = False
    """LayerScale is folded into the matrix before it.

    ``(a W' + b) * g = a (g W)' + g b`` needs no copy of the branch's output in the backward pass: the gradient of ``g``
    follows from that of the matrix. Two tensors of all tokens a block are neither kept nor read.
    """
    joint_draws: bool = False
    """Drop path is drawn for all blocks at once: other draws of the same law."""
    fused_rotation: bool = False
    """Heads that are trained are split and rotated by one operation (``turned_heads``)."""
    written_out: bool = True
    """Attention that is trained in bf16 on a CPU does without torch's kernel. Nothing changes elsewhere."""


class Executed(nn.Module):
    """A module that has these forms."""

    execution = Execution()


def execution_of(cfg: Config, device_type: str) -> Execution:
    """What ``compute_precision`` says for a device of this type."""
    on, on_cpu = fused(cfg, device_type), device_type == "cpu"
    narrow = cfg.compute_precision.residual_dtype == "autocast" and not on_cpu
    rotation = cfg.compute_precision.fused_rotation
    return Execution(narrow, fused=on, joint_draws=on, fused_rotation=rotation, written_out=on_cpu)


def set_execution(root: nn.Module, execution: Execution) -> None:
    """Give all of ``root`` this form."""
    for module in root.modules():
        if isinstance(module, Executed):
            module.execution = execution
