"""One pass of a frozen teacher for several students.

Every student sees the same global batch, cut up among its own processes: a process of a student of n holds B / n images.
Each process shows the teacher some of the images it holds, of W processes none more than B / W, rounded up; so the
teacher's work is shared equally whatever the students' sizes, and no image is sent. What is sent are class tokens
and the bottlenecks of the heads (256 numbers a masked patch instead of the teacher's width); the prototypes, the last
layer, are then each process's own work. Targets are balanced inside a student's group, as when it is trained alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinov3.contracts import Features, TeacherLogits
from dinov3.distributed.transfer import Later, send
from dinov3.models.token_grid import resample_tokens

Grid = tuple[int, int]
Gather = Callable[[Tensor], Tensor]  # x [...] of every process: [W, ...]


class Division(NamedTuple):
    """Who asks the teacher about which image, for one process and a batch of b images."""

    asked: Tensor  # [b'] int64, the images of the own batch this process shows to the teacher; b' is the same for all
    real: int  # how many of ``asked`` count: one that has fewer to ask about fills up with an image nobody reads
    slot: Tensor  # [b] int64, the place of an own image among ``asked``, -1 when another process has it
    owner: Tensor  # [b] int64, the process that shows an own image
    place: Tensor  # [b] int64, its place among that process's ``asked``


@lru_cache(maxsize=8)
def divide(ranks: tuple[range, ...], number: int, batch: int) -> Division:
    """For process ``number``, which holds ``batch`` images. ``ranks``: the processes of each student, together all.

    The global batch is a multiple of the size of every student.
    """
    own = next(members for members in ranks if number in members)
    whole, start = batch * len(own), (number - own.start) * batch
    askers = askers_of(ranks, whole)
    places: list[int] = []  # of each position of the global batch among what its asker asks about
    loads: Counter[int] = Counter()
    for asker in askers:
        places.append(loads[asker])
        loads[asker] += 1
    asked = [image for image in range(batch) if askers[start + image] == number]
    slot = [-1] * batch
    for at, image in enumerate(asked):
        slot[image] = at
    padding = [0] * (max(loads.values()) - len(asked))
    owner, place = askers[start : start + batch], places[start : start + batch]
    tensors = [torch.tensor(values) for values in (asked + padding, slot, owner, place)]
    return Division(tensors[0], len(asked), *tensors[1:])


def askers_of(ranks: tuple[range, ...], whole: int) -> list[int]:
    """For every image of a global batch the process that shows it to the teacher: one that holds it.

    Images are given away in their order, each to the process that will soonest have no more to take (Glover 1967: that
    serves all when it is possible). It is: if every process took B / W of each of its images, all would be served.
    """
    limit = -(-whole // sum(len(members) for members in ranks))
    loads: Counter[int] = Counter()
    askers = []
    for position in range(whole):
        holders = []  # (first image it does not hold, how many it has taken, process)
        for members in ranks:
            share = whole // len(members)
            process = members.start + position // share
            if loads[process] < limit:
                holders.append(((position // share + 1) * share, loads[process], process))
        askers.append(min(holders)[-1])
        loads[askers[-1]] += 1
    return askers


@torch.no_grad()
def shared_logits(
    teacher: nn.ModuleDict,
    images: Tensor,
    mask_indices_list: Tensor,
    division: Division,
    gather: Gather,
    grid: Grid,
) -> TeacherLogits:
    """What the teacher says about this process's batch, but its patches.

    ``images [G*B, C, H, W]``; ``mask_indices_list [M]``, ascending, indexes their flattened patches on the student's
    ``grid``, to which the teacher's are brought. Every process of all students must call it for the same global batch.
    Raises RuntimeError when two of them hold different masks.
    """
    parts = [part for part in division if isinstance(part, Tensor)]
    asked, slot, owner, place = send(torch.cat(parts), images.device).split([len(part) for part in parts])
    n, n_asked, n_patches = len(slot), len(asked), grid[0] * grid[1]
    crops = images.unflatten(0, (-1, n))
    edges = torch.arange(len(images) + 1, device=images.device) * n_patches
    own_counts = torch.searchsorted(mask_indices_list, edges).diff().unflatten(0, (-1, n))  # [G, B] masked patches
    asked_counts = own_counts[:, asked]
    asked_counts[:, division.real :] = 0
    counts = gather(asked_counts)  # [W, G, b']
    differ = (own_counts != counts[owner, :, place].T).any()
    # on its way before the teacher's pass is queued: reading it does not wait for the end of that pass
    figures = Later(torch.stack([counts.sum((1, 2)).max(), asked_counts.sum(), differ]))
    features: Features = teacher["backbone"](crops[:, asked].flatten(0, 1), is_training=True)  # of G*b' crops
    patches = resample_tokens(features.patches, features.grid, grid)  # [G*b', P, D]
    stack, patch = mask_indices_list // n_patches, mask_indices_list % n_patches  # [M] in [0, G*B), [0, P)
    crop, image = stack // n, stack % n
    longest, shown, differs = figures.read()
    if differs:
        raise RuntimeError("students that share a teacher's pass hold different masks of the same images")
    first_shown = (slot[image] < 0).to(torch.uint8).argsort(stable=True)[:shown]  # in their order
    rows = ((crop * n_asked + slot[image]) * n_patches + patch).index_select(0, first_shown)
    masked = patches.flatten(0, 1).index_select(0, rows)  # [m, D]
    hidden = teacher["ibot_head"](masked, no_last_layer=True)  # [m, Db]
    cls = torch.cat([features.cls, teacher["dino_head"](features.cls, no_last_layer=True)], dim=-1)  # [G*b', D + Db]
    padded = hidden.new_zeros(longest, hidden.shape[1])
    padded[: len(hidden)] = hidden
    all_cls = gather(cls).unflatten(1, (-1, n_asked))  # [W, G, b', D + Db]
    all_hidden = gather(padded)  # [W, m', Db]

    width = features.cls.shape[1]
    cls = all_cls[owner, :, place].transpose(0, 1)  # [G, B, D + Db]
    first = counts.flatten(1).cumsum(1) - counts.flatten(1)  # [W, G*b'] where the patches of a crop begin there
    own_first = own_counts.flatten().cumsum(0) - own_counts.flatten()  # [G*B] and here
    among = torch.arange(len(stack), device=stack.device) - own_first[stack]  # [M] which patch of its crop
    hidden = all_hidden[owner[image], first[owner[image], crop * n_asked + place[image]] + among]  # [M, Db]
    return TeacherLogits(
        cls=cls[..., :width].flatten(0, 1),
        cls_logits=teacher["dino_head"](cls[..., width:], only_last_layer=True),
        masked_logits=teacher["ibot_head"](hidden, only_last_layer=True),
        grid=grid,
    )
