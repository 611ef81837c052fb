"""Features of a video made steady: an exponential mean over frames that begins anew at a cut."""

from __future__ import annotations

from collections import deque
from statistics import median

import torch.nn.functional as F
from torch import Tensor

ALPHA = 0.7  # weight of the new frame
HISTORY = 5  # frames whose changes say what is usual
CUT_RATIO, CUT_LEAST = 4.0, 0.02  # a change this many times the usual one, and at least this large, is a cut


class Smoother:
    """``smoother(features)`` for each frame ``[..., D]`` in order: alpha * new + (1 - alpha) * what it returned before.

    Begins anew when the shape changes and at a cut: when 1 - the mean cosine of a frame's features with those of the
    frame before is ``CUT_RATIO`` times the median of the last ``HISTORY`` such changes. A constant video stays
    constant; white noise keeps alpha / (2 - alpha) of its variance (0.538). Nothing but the last frame and HISTORY
    numbers is kept, without a graph.
    """

    def __init__(self, alpha: float = ALPHA) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"smoothing {alpha:g}: the weight of the new frame, above 0 and at most 1")
        self.alpha = alpha
        self.resets = 0  # after the first frame
        self._before: Tensor | None = None  # as it came
        self._mean: Tensor | None = None
        self._changes: deque[float] = deque(maxlen=HISTORY)

    def __call__(self, features: Tensor) -> Tensor:
        """The steadied features of this frame."""
        new = features.detach()
        if self._mean is None or self._before is None:
            self._mean = new
        elif new.shape != self._mean.shape or self._is_cut(new):
            self._mean = new
            self.resets += 1
            self._changes.clear()
        else:
            self._mean = self.alpha * new + (1 - self.alpha) * self._mean
        self._before = new
        return self._mean

    def _is_cut(self, new: Tensor) -> bool:
        assert self._before is not None
        change = 1 - float(F.cosine_similarity(new.float(), self._before.float(), dim=-1).mean())
        usual = median(self._changes) if self._changes else change
        self._changes.append(change)
        return change > max(CUT_LEAST, CUT_RATIO * usual)
