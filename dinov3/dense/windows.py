"""A dense network over images of any size: whole, in overlapping windows, and averaged with the mirrored image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # (height, width)
Network = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> logits [N, K, h, w]


def resized(maps: Tensor, size: Size) -> Tensor:
    """``maps [N, C, h, w]`` at ``size``, bilinear between pixel centres (align_corners False)."""
    return maps if tuple(maps.shape[-2:]) == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def of_any_size(network: Network, images: Tensor, patch: int) -> Tensor:
    """Maps ``[N, K, H, W]`` of ``images [N, C, H, W]`` by a network that takes whole patches.

    A margin of 0, the mean colour, makes whole patches of an image, and is cut off again.
    """
    height, width = images.shape[-2:]
    down, right = -height % patch, -width % patch
    maps = network(F.pad(images, (0, right, 0, down)))
    return resized(maps, (height + down, width + right))[..., :height, :width]


def window_places(image: Size, crop: Size, stride: Size) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of each window, row by row.

    The last window of an axis is moved back inside, never padded. A crop that is larger than the image on both axes
    becomes the square of the shorter side; on one axis it is cut to the image there.

    Raises ValueError for a stride below 1, and when pixels between two windows would have no logits.
    """
    if crop[0] > image[0] and crop[1] > image[1]:
        crop = (min(image), min(image))
    height, width = min(crop[0], image[0]), min(crop[1], image[1])
    rows, columns = _starts(image[0], height, stride[0]), _starts(image[1], width, stride[1])
    return [(top, top + height, left, left + width) for top in rows for left in columns]


def _starts(side: int, crop: int, stride: int) -> list[int]:
    if stride < 1:
        raise ValueError(f"a stride of {stride} px: at least 1")
    count = max(side - crop + stride - 1, 0) // stride + 1
    starts = [min(i * stride, side - crop) for i in range(count)]
    if any(after - before > crop for before, after in pairwise(starts)):
        raise ValueError(f"windows of {crop} px every {stride} px leave gaps: give a stride of at most {crop}")
    return starts


def slide(network: Network, images: Tensor, crop: Size, stride: Size) -> tuple[Tensor, Tensor]:
    """(logits ``[N, K, H, W]``, windows over each pixel ``[H, W]`` int64) of ``images [N, C, H, W]``.

    Each window's logits are resized to the window, added, and divided by the count of windows.
    """
    height, width = images.shape[-2:]
    count = torch.zeros(height, width, dtype=torch.int64, device=images.device)
    total: Tensor | None = None
    for top, bottom, left, right in window_places((height, width), crop, stride):
        logits = network(images[:, :, top:bottom, left:right])
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], height, width)
        total[:, :, top:bottom, left:right] += resized(logits, (bottom - top, right - left))
        count[top:bottom, left:right] += 1
    assert total is not None  # there is always one window
    return total / count, count


def whole(network: Network, images: Tensor, size: Size | None = None) -> Tensor:
    """Logits of the images in one pass, first resized to ``size`` if given, at the grid the network has."""
    return network(images if size is None else resized(images, size))


def with_flip(network: Network, images: Tensor, size: Size, *, flip: bool = True) -> Tensor:
    """Class probabilities ``[N, K, *size]``: softmax of the resized logits, averaged over the image and its mirror."""
    views = [resized(network(images), size).softmax(1)]
    if flip:
        views.append(mirrored_logits(network, images, size).softmax(1))
    return torch.stack(views).mean(0)


def mirrored_logits(network: Network, images: Tensor, size: Size) -> Tensor:
    """What the network says of the mirrored images, resized to ``size`` and mirrored back."""
    return resized(network(images.flip(-1)), size).flip(-1)
