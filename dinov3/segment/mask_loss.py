"""The loss of masks with classes: each true mask is given to one query, by the least cost (Cheng et al. 2022, Mask2Former).

Two things differ from Mask2Former so that the loss of a batch is the mean over its images, however they are shared out
over processes: masks are averaged image by image, and all places of the grid are compared, not a drawn sample.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.dense.augment import nearest

CLASS, MASK, DICE = 2.0, 5.0, 5.0  # weights of the three terms, in cost and loss
NO_OBJECT = 0.1  # weight of a query that was given nothing


def mask_loss(classes: Tensor, masks: Tensor, truth: Tensor, ignore: int) -> dict[str, Tensor]:
    """Weighted terms, each the mean over images.

    ``classes [N, Q, K + 1]`` logits, the last of "nothing"; ``masks [N, Q, h, w]`` logits; ``truth [N, H, W]`` class
    numbers. An image without a labelled pixel counts as 0.
    """
    rows = [one_image(c.float(), m.float(), t, ignore) for c, m, t in zip(classes, masks, truth, strict=True)]
    summed = torch.stack(rows).mean(0)  # [3]
    return {"class_loss": CLASS * summed[0], "mask_loss": MASK * summed[1], "dice_loss": DICE * summed[2]}


def one_image(classes: Tensor, masks: Tensor, truth: Tensor, ignore: int) -> Tensor:
    """(class cross entropy, mask cross entropy, dice) ``[3]`` of one image, unweighted."""
    small = nearest(truth, (masks.shape[1], masks.shape[2]))  # a true number at each place, never a mixture
    known = small != ignore
    present = small[known].unique().long()  # [M]
    logits = masks[:, known]  # [Q, P]
    if len(present) == 0:
        return torch.stack([classes.sum(), masks.sum(), masks.sum()]) * 0  # with a graph, as every process has one
    wanted = (small[known][None] == present[:, None]).float()  # [M, P]
    query, mask = matched(classes, logits, wanted, present)
    nothing = classes.shape[1] - 1
    target = torch.full((len(classes),), nothing, device=classes.device)
    target[query] = present[mask]
    weight = torch.ones(classes.shape[1], device=classes.device)
    weight[nothing] = NO_OBJECT
    said, true = logits[query], wanted[mask]
    return torch.stack(
        [
            F.cross_entropy(classes, target, weight),
            F.binary_cross_entropy_with_logits(said, true),
            dice(said.sigmoid(), true).mean(),
        ]
    )


def dice(said: Tensor, true: Tensor) -> Tensor:
    """1 - (2 |A and B| + 1) / (|A| + |B| + 1) of soft masks ``[M, P]``: ``[M]``."""
    return 1 - (2 * (said * true).sum(1) + 1) / (said.sum(1) + true.sum(1) + 1)


@torch.no_grad()
def matched(classes: Tensor, logits: Tensor, wanted: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """(queries, masks), both ``[min(Q, M)]``: the assignment of the least total cost (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment  # an extra, which only training needs

    places = wanted.shape[1]
    said = logits.sigmoid()
    apart = (F.softplus(-logits) @ wanted.T + F.softplus(logits) @ (1 - wanted).T) / places  # [Q, M]
    shared = 1 - (2 * said @ wanted.T + 1) / (said.sum(1)[:, None] + wanted.sum(1)[None] + 1)
    cost = -CLASS * classes.softmax(1)[:, present] + MASK * apart + DICE * shared
    # a step that is not finite is skipped by the trainer, which must be told by the loss, not by the assignment
    rows, columns = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy()))
    device = classes.device
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
