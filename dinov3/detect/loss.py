"""What a detector's answers cost: focal loss of classes, GIoU of boxes, cross entropy of centerness (FCOS, section 3.2).

Each image's terms are divided by its own places with a box, so that the loss of a batch is the mean over its images and
depends neither on the other images nor on the number of processes; FCOS divides by the places of the whole batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.data.torchvision_compat import import_torchvision
from dinov3.detect.assign import UNKNOWN, Assigned, assign, centerness
from dinov3.detect.head import Said, corners_of
from dinov3.detect.views import Truth

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (Lin et al. 2017)


def detect_loss(said: Said, truths: list[Truth], strides: list[float]) -> dict[str, Tensor]:
    """Terms whose sum is the loss, each the mean over images."""
    each = [
        _of_image(said, row, truth, assign(truth, said.places, said.levels, strides))
        for row, truth in enumerate(truths)
    ]
    return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}


def _of_image(said: Said, row: int, truth: Truth, assigned: Assigned) -> dict[str, Tensor]:
    logits, sides, centres = said.classes[row].float(), said.sides[row].float(), said.centres[row].float()
    positive = assigned.box >= 0
    chosen = assigned.box[positive]
    wanted = torch.zeros_like(logits)  # [P, K]
    wanted[positive, truth.classes[chosen]] = 1.0
    focal = import_torchvision("torchvision.ops").sigmoid_focal_loss(
        logits, wanted, alpha=ALPHA, gamma=GAMMA, reduction="none"
    )
    n = positive.sum().clamp_min(1)
    central = centerness(assigned.sides[positive])
    places = said.places[positive]
    found, true = (corners_of(places, one) for one in (sides[positive], assigned.sides[positive]))
    giou: Tensor = import_torchvision("torchvision.ops").generalized_box_iou_loss(found, true, reduction="none")
    return {
        "class_loss": focal[assigned.box != UNKNOWN].sum() / n,
        "box_loss": (giou * central).sum() / central.sum().clamp_min(1e-6),
        "centre_loss": F.binary_cross_entropy_with_logits(centres[positive], central, reduction="sum") / n,
    }
