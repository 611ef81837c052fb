"""From what the head says to boxes: scores, the best of each level, and of overlapping boxes of a class the best."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinov3.data.torchvision_compat import import_torchvision, operators_load
from dinov3.detect.head import Said, corners_of

CANDIDATES = 1000  # of an image that overlaps are looked for among
MOST = 100  # boxes said of an image: COCO counts no more


class Answer(NamedTuple):
    """What is said of one image, best first."""

    corners: Tensor  # [n, 4] float32: left, top, right, bottom
    scores: Tensor  # [n]
    classes: Tensor  # [n] int64


def scores_of(said: Said) -> Tensor:
    """``[N, P, K]``: the square root of class probability times centerness, as FCOS's later code has it."""
    scores: Tensor = (said.classes.float().sigmoid() * said.centres.float().sigmoid()[..., None]).sqrt()
    return scores


def answers(
    scores: Tensor, corners: Tensor, side: tuple[float, float], *, least_score: float, overlap: float
) -> list[Answer]:
    """Of ``scores [N, P, K]`` and ``corners [N, P, 4]``, cut to a view of ``side`` (width, height) px."""
    return [
        _of_image(one, boxes, side, least_score, overlap) for one, boxes in zip(scores, corners.float(), strict=True)
    ]


def said_boxes(said: Said) -> Tensor:
    """``[N, P, 4]``."""
    return corners_of(said.places, said.sides.float())


def _of_image(scores: Tensor, corners: Tensor, side: tuple[float, float], least_score: float, overlap: float) -> Answer:
    flat = scores.flatten()
    kept = (flat > least_score).nonzero()[:, 0]
    order = flat[kept].sort(descending=True, stable=True).indices[:CANDIDATES]
    kept = kept[order]
    classes, places = kept % scores.shape[1], kept // scores.shape[1]
    boxes = torch.stack([corners[places, axis].clamp(0, side[axis % 2]) for axis in range(4)], dim=-1)
    boxes = boxes.reshape(-1, 4)
    best = without_overlaps(boxes, flat[kept], classes, overlap)[:MOST]
    return Answer(boxes[best], flat[kept][best], classes[best])


def without_overlaps(corners: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """Indices ``[m]`` of the boxes that are kept, best first: none has an IoU above ``overlap`` with a better one of its class."""
    if _compiled():
        found: Tensor = import_torchvision("torchvision.ops").batched_nms(corners, scores, classes, overlap)
        return found
    return plain_nms(corners, scores, classes, overlap)


@cache
def _compiled() -> bool:
    return operators_load()


def plain_nms(corners: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """The same without torchvision's compiled part, which a CPU build of torch often lacks."""
    order = scores.sort(descending=True, stable=True).indices
    boxes, numbers = corners[order], classes[order]
    too_near: Tensor = import_torchvision("torchvision.ops").box_iou(boxes, boxes) > overlap
    near = (too_near & (numbers[:, None] == numbers)).cpu().numpy()
    alive = np.ones(len(order), np.bool_)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= ~near[row, row + 1 :]
    return order[torch.from_numpy(alive).to(order.device)]
