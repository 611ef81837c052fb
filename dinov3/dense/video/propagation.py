"""Labels of the first frame carried through a video by similar patches, in the two public variants.

``notebook`` (DINOv3's tracking notebook): the k most similar patches within a distance vote with softmax(cosine / T).
``dino`` (DINO v1's script for DAVIS): exp(cosine / T) within a square window; what is below the k-th largest is 0.

Both see the first frame and the last n. A ``Tracker`` keeps no more than these, so its memory does not grow with the
video; similarities are computed for a few rows of patches at a time, and only with the rows a vote may come from.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dinov3.dense.windows import Size, resized

BLOCK_BYTES = 64 * 2**20  # of similarities at once


@dataclass(frozen=True)
class Rules:
    """How labels are carried. Distances are in patches."""

    variant: str = "notebook"  # or "dino"
    context: int = 7  # last frames, beside the first
    radius: float = 12  # of the neighbourhood; dino: 0 for no limit
    shape: str = "circle"  # notebook: circle or square; dino's is a square
    topk: int = 5
    temperature: float = 0.2  # dino: 0.1

    def __post_init__(self) -> None:
        if self.variant not in ("notebook", "dino"):
            raise ValueError(f"variant {self.variant!r}: choose notebook or dino")
        if self.shape not in ("circle", "square"):
            raise ValueError(f"shape {self.shape!r}: choose circle or square")
        for name, good, least in (
            ("context", self.context >= 0, "at least 0"),
            ("radius", self.radius >= 0, "at least 0"),
            ("topk", self.topk >= 1, "at least 1"),
            ("temperature", self.temperature > 0, "above 0"),
        ):
            if not good:
                raise ValueError(f"{name} {getattr(self, name)}: {least}")

    @property
    def unlimited(self) -> bool:
        """Whether any patch may vote."""
        return self.variant == "dino" and self.radius == 0


NOTEBOOK = Rules()  # DINOv3's settings, at a short side of 960 px
DINO = Rules(variant="dino", context=7, radius=12, shape="square", topk=5, temperature=0.1)


class Tracker:
    """Carries probabilities ``[h, w, labels]`` from frame to frame; features are ``[h, w, D]``, normalised here."""

    def __init__(self, features: Tensor, probabilities: Tensor, rules: Rules = NOTEBOOK) -> None:
        if features.shape[:2] != probabilities.shape[:2]:
            raise ValueError(
                f"features on {tuple(features.shape[:2])}, labels on {tuple(probabilities.shape[:2])} patches"
            )
        self.rules = rules
        self._first = (F.normalize(features.float(), dim=-1), probabilities.float())
        self._last: deque[tuple[Tensor, Tensor]] = deque(maxlen=rules.context)

    def step(self, features: Tensor) -> Tensor:
        """Probabilities ``[h, w, labels]`` of the next frame. ValueError for another grid than the first frame's."""
        if features.shape != self._first[0].shape:
            raise ValueError(f"features {list(features.shape)} after {list(self._first[0].shape)}: one grid a video")
        unit = F.normalize(features.float(), dim=-1)
        context = [self._first, *self._last]
        found = propagate(unit, torch.stack([f for f, _ in context]), torch.stack([p for _, p in context]), self.rules)
        self._last.append((unit, found))
        return found


def propagate(
    features: Tensor, context: Tensor, probabilities: Tensor, rules: Rules, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """Probabilities ``[h, w, M]`` of one frame.

    Args:
        features: ``[h, w, D]`` of norm 1.
        context: ``[T, h, w, D]`` of norm 1.
        probabilities: ``[T, h, w, M]`` of the context.
        block_bytes: about what the similarities of a block of rows may take.
    """
    height, width = features.shape[:2]
    reach = height if rules.unlimited else int(rules.radius)
    row_bytes = 4 * width * len(context) * min(2 * reach + 1, height) * width
    rows = max(1, block_bytes // max(row_bytes, 1))
    parts = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - reach), min(height, bottom + reach)
        near = neighbourhood(range(top, bottom), range(first, last), width, rules).to(features.device)
        parts.append(_vote(features[top:bottom], context[:, first:last], probabilities[:, first:last], near, rules))
    return torch.cat(parts)


def neighbourhood(rows: range, context_rows: range, width: int, rules: Rules) -> Tensor:
    """Which patches may vote: bool ``[len(rows) * width, len(context_rows) * width]``."""
    if rules.unlimited:
        return torch.ones(len(rows) * width, len(context_rows) * width, dtype=torch.bool)
    down = (torch.tensor(rows)[:, None] - torch.tensor(context_rows)[None]).abs()  # [r, R]
    across = (torch.arange(width)[:, None] - torch.arange(width)[None]).abs()  # [w, w]
    down, across = down[:, None, :, None], across[None, :, None, :]
    if rules.variant == "dino" or rules.shape == "square":
        near = torch.maximum(down, across) <= rules.radius
    else:
        near = down**2 + across**2 <= rules.radius**2
    return near.reshape(len(rows) * width, len(context_rows) * width)


def _vote(features: Tensor, context: Tensor, probabilities: Tensor, near: Tensor, rules: Rules) -> Tensor:
    """``[r, w, M]`` of a block of rows ``features [r, w, D]`` and what is within its reach."""
    rows, width = features.shape[:2]
    similarity = features.flatten(0, 1) @ context.flatten(0, 2).T  # [r w, T R w]
    allowed = near.repeat(1, len(context))
    k = min(rules.topk, similarity.shape[1])
    if rules.variant == "notebook":
        similarity = similarity.masked_fill(~allowed, -torch.inf)
        kth = similarity.topk(k, dim=1).values[:, -1:]
        weights = similarity.masked_fill(similarity < kth, -torch.inf).div(rules.temperature).softmax(1)
    else:
        # relative to the largest, which the division by the sum undoes: exp(1 / 0.01) is infinite in float32
        top = similarity.masked_fill(~allowed, -torch.inf).amax(1, keepdim=True)
        weights = ((similarity - top) / rules.temperature).exp().masked_fill(~allowed, 0)
        kth = weights.topk(k, dim=1).values[:, -1:]
        weights = weights.masked_fill(weights < kth, 0)
        weights = weights / weights.sum(1, keepdim=True)
    return (weights @ probabilities.flatten(0, 2)).view(rows, width, -1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Probabilities ``[h, w, classes]`` of labels ``[h, w]``."""
    return F.one_hot(labels.long(), classes).float()


def to_grid(mask: Tensor, grid: Size, variant: str = "notebook") -> Tensor:
    """Labels ``[H, W]`` uint8 on the grid: the one at the centre of each patch, by each variant's own arithmetic."""
    if variant == "dino":
        small = Image.fromarray(mask.cpu().numpy().astype(np.uint8)).resize(grid[::-1], Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(small)).to(mask.device)
    return F.interpolate(mask[None, None].float(), grid, mode="nearest-exact")[0, 0].to(torch.uint8)


def to_mask(probabilities: Tensor, size: Size, variant: str = "notebook") -> Tensor:
    """Labels ``[H, W]`` uint8 of probabilities ``[h, w, M]``: enlarged (nearest, or bilinear for dino), then ``scaled``
    per label over the frame, then the largest."""
    return scaled(enlarged(probabilities, size, variant)).argmax(0).to(torch.uint8)


def enlarged(probabilities: Tensor, size: Size, variant: str = "notebook") -> Tensor:
    """``[M, H, W]`` of ``[h, w, M]``."""
    maps = probabilities.permute(2, 0, 1)[None]
    return (F.interpolate(maps, size, mode="nearest") if variant == "notebook" else resized(maps, size))[0]


def scaled(maps: Tensor) -> Tensor:
    """Each label's map ``[M, H, W]`` from 0 to 1 over the frame; a constant one becomes 0.

    So a label that fades from the video is not lost to one that never does.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    return torch.where(
        spread > 0, (maps - low) / spread.clamp_min(torch.finfo(maps.dtype).tiny), torch.zeros_like(maps)
    )
