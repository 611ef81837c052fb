"""Which pictures look the same: a 64-bit perceptual hash, and all pairs whose hashes differ in few bits.

The hash is the sign of the low frequencies of the picture in gray: it survives recompression, resizing and small
changes of brightness. Pairs are found by the pigeonhole principle: two hashes that differ in at most d bits agree in
at least one of d + 1 bands, so only hashes that share a band are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinov3.data.decode import Pixels

SIDE, LOW = 32, 8  # the picture is shrunk to SIDE x SIDE; LOW x LOW frequencies of it make the hash
BITS = LOW * LOW
DISTANCE = 4  # bits: copies saved again as JPEG at quality 50 or at half the size are within it
FLAT = 2.0  # of 255: less contrast than that is a blank picture, whose hash would be that of its noise

Hashes = NDArray[np.uint64]
# [LOW, SIDE] rows of the type-II discrete cosine transform
COSINES = np.cos(np.pi * np.arange(LOW)[:, None] * (2 * np.arange(SIDE) + 1) / (2 * SIDE))


def thumbnail(pixels: Pixels) -> Pixels:
    """``[SIDE, SIDE]`` gray of ``pixels [H, W, C]``; of channels that are not RGB the first."""
    image = Image.fromarray(pixels).convert("L") if pixels.shape[2] == 3 else Image.fromarray(pixels[:, :, 0])
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))


def is_flat(thumbnails: Pixels) -> NDArray[np.bool_]:
    """``[N]``: which of ``thumbnails [N, SIDE, SIDE]`` are blank."""
    flat: NDArray[np.bool_] = thumbnails.reshape(len(thumbnails), -1).std(1) < FLAT
    return flat


def perceptual_hashes(thumbnails: Pixels) -> Hashes:
    """``[N]`` hashes of ``thumbnails [N, SIDE, SIDE]``: which low frequencies are above their median."""
    low = (COSINES @ thumbnails.astype(np.float64) @ COSINES.T).reshape(-1, BITS)
    above = low > np.median(low[:, 1:], axis=1, keepdims=True)  # the first is the mean, which says nothing
    return np.packbits(above, axis=1).view(">u8").astype(np.uint64).ravel()


def distance(a: Hashes, b: Hashes) -> NDArray[np.int64]:
    """Bits in which ``a`` and ``b`` differ."""
    different = (a ^ b).astype("<u8")[..., None].view(np.uint8)  # [..., 8]
    return np.unpackbits(different, axis=-1).sum(-1, dtype=np.int64)


def close_pairs(hashes: Hashes, most: int = DISTANCE) -> NDArray[np.int64]:
    """All pairs ``[N, 2]`` of places in ``hashes`` whose hashes differ in at most ``most`` bits, each pair once.

    ``hashes`` are distinct. Time grows with the pairs that share a band, not with all pairs.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    edges = np.linspace(0, BITS, most + 2).astype(int)
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        found += [pairs[distance(*hashes[pairs.T]) <= most] for pairs in _pairs_within(band)]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _pairs_within(keys: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """All pairs of places with equal keys, in arrays ``[n, 2]``: sorted by key, each with its k-th next neighbour."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.arange(len(order))
    step = 1
    while len(first):
        first = first[first + step < len(order)]
        first = first[ordered[first] == ordered[first + step]]  # a bucket that is over stays so
        yield np.stack([order[first], order[first + step]], axis=1)
        step += 1


def groups(pairs: NDArray[np.int64]) -> list[list[int]]:
    """What hangs together by ``pairs [N, 2]``: groups in ascending order."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        while parent.setdefault(x, x) != x:
            parent[x] = x = parent[parent[x]]
        return x

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members: defaultdict[int, list[int]] = defaultdict(list)
    for x in sorted(parent):
        members[root(x)].append(x)
    return [members[first] for first in sorted(members)]


def equal_groups(keys: NDArray[np.generic]) -> list[NDArray[np.int64]]:
    """Places of equal ``keys [N]``, for every key that occurs more than once."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]]) if len(keys) else np.empty(0, dtype=int)
    return [part for part in np.split(order, starts[1:]) if len(part) > 1]
