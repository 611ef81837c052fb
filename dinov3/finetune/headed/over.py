"""A model over the images of a set: shared out over processes, with what could not be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from dinov3.data.bad_samples import BadSample, by_chance, raise_limit
from dinov3.data.errors import BadImage, DataError, TooManyBadSamples
from dinov3.distributed.collectives import gather_objects
from dinov3.distributed.context import rank, world_size
from dinov3.features.extract import in_threads

R = TypeVar("R")  # an image with its truth
V = TypeVar("V")  # what is found of it
CHECKED = 200  # images of a set that are read before training begins: a second or two


@torch.no_grad()
def over(
    model: nn.Module,
    indices: Sequence[int],
    read: Callable[[int], R],
    use: Callable[[R], V],
    name: Callable[[int], str],
    *,
    shared: bool,
    threads: int,
    most_bad: float,
    count: Callable[[int], object] = lambda more: None,
) -> tuple[list[V], list[BadSample]]:
    """(``use(read(index))`` of every image in the order of ``indices``, the others with the reason).

    ``shared``: every process calls this and does its part; all get the whole. ``model`` is in eval mode meanwhile.
    ``read`` runs in threads and raises BadImage. Raises TooManyBadSamples for more than the share ``most_bad``.
    """
    own = list(indices)[rank() :: world_size()] if shared else list(indices)
    found: dict[int, V] = {}
    bad: dict[int, BadSample] = {}

    def attempt(index: int) -> tuple[int, R | None, str]:
        try:
            return index, read(index), ""
        except BadImage as error:
            return index, None, str(error)

    mode = model.training
    model.eval()
    try:
        for index, one, reason in in_threads(attempt, own, threads):
            count(1)
            if one is None:
                bad[index] = BadSample(name(index), reason)
            else:
                found[index] = use(one)
    finally:
        model.train(mode)
    parts = gather_objects((found, bad)) if shared else [(found, bad)]
    good = {index: value for part, _ in parts for index, value in part.items()}
    skipped = [one for _, one in sorted((index, one) for _, part in parts for index, one in part.items())]
    if len(skipped) > most_bad * len(indices) or not good:
        raise TooManyBadSamples(
            f"{len(skipped)} of {len(indices)} images cannot be used, the first {skipped[0].name}: "
            f"{skipped[0].reason}; {raise_limit(most_bad)}"
        )
    return [good[index] for index in sorted(good)], skipped


def check_sample(n: int, read: Callable[[int], object], name: Callable[[int], str], text: str, most_bad: float) -> None:
    """DataError when more than the share ``most_bad`` of a sample of the ``n`` images of ``text`` cannot be used.

    Chance is allowed for where not all are looked at: three standard deviations.
    """
    bad, indices = [], spread(n, CHECKED)
    for index in indices:
        try:
            read(index)
        except (BadImage, OSError) as error:
            bad.append(BadSample(name(index), str(error)))
    if len(bad) > (by_chance(most_bad, len(indices)) if len(indices) < n else most_bad * n):
        raise DataError(
            f"{text}: {len(bad)} of {len(indices)} images cannot be used, the first {bad[0].name}: {bad[0].reason}; "
            f"{raise_limit(most_bad)}"
        )


def spread(n: int, most: int) -> range:
    """At most ``most`` of ``n`` indices, evenly spread."""
    return range(0, n, max(1, -(-n // most)))
