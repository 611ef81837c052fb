"""What a compressed model is trained back by."""

from __future__ import annotations

from torch import Tensor

from dinov3.contracts import Features
from dinov3.losses.relative_l2 import relative_l2_loss


def recovery_loss(
    student: Features, teacher: Features, *, cls_weight: float = 1.0, patch_weight: float = 1.0
) -> Tensor:
    """Relative squared distance of class tokens and of patches to those of the uncompressed model; no label is needed.

    Args:
        student: of the compressed model, with a graph.
        teacher: of the uncompressed model on the same images, without one.
        cls_weight, patch_weight: of the two means.

    Returns:
        Scalar fp32: 0 when all tokens are equal, the weights' sum when the student's are 0. Not the cosine: a linear
        layer behind the features sees their length.
    """
    cls = relative_l2_loss(student.cls, teacher.cls.detach())
    return cls_weight * cls + patch_weight * relative_l2_loss(student.patches, teacher.patches.detach())
