"""Which image comes at which position of the endless stream of samples, without a state and without a list.

Position p belongs to epoch p // N, and the image is the p % N-th of that epoch's permutation. The permutation is a
keyed one, computed for any position alone: a Feistel network on a rows x columns grid just large enough for N, walked
until it lands below N (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"). Resuming is naming the position.
Few images are simply shuffled: that is exact, and a Feistel network mixes badly when a coordinate has few values.

Several datasets mixed by weight have an epoch each. Of every MIX_BLOCK samples each gives its fixed number, in an order
shuffled anew for every block; so the k-th sample of a dataset is known for any position, and the epochs are its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dinov3.data.randomness import digest, generator

ROUNDS = 8
SHUFFLED = 4096  # up to so many images the permutation is a table
MIX_BLOCK = 2**16  # samples over which weights hold exactly; 1 ms to shuffle
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's finaliser (Stafford 2011)

UInts = NDArray[np.uint64]


@lru_cache(maxsize=8)
def _round_keys(seed: int, epoch: int) -> UInts:
    return np.frombuffer(digest(seed, "order", epoch, size=8 * ROUNDS), dtype="<u8").astype(np.uint64)


@lru_cache(maxsize=8)
def _shuffled(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return generator(seed, "order", epoch).permutation(n)


def _scramble(x: UInts) -> UInts:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _feistel(x: UInts, rows: int, columns: int, keys: UInts) -> UInts:
    """A permutation of the integers below ``rows * columns``: each round moves one coordinate by a hash of the other."""
    n_rows, n_columns = np.uint64(rows), np.uint64(columns)
    row, column = x // n_columns, x % n_columns
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        row = (row + _scramble(column ^ even) % n_rows) % n_rows
        column = (column + _scramble(row ^ odd) % n_columns) % n_columns
    return row * n_columns + column


def permuted(places: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Images ``[N]`` at ``places [N]`` (each in ``[0, n)``) of this epoch's permutation of ``range(n)``."""
    if n <= SHUFFLED:
        return _shuffled(n, seed, epoch)[places]
    rows = math.isqrt(n - 1)
    columns = -(-n // rows)
    keys = _round_keys(seed, epoch)
    x = _feistel(places.astype(np.uint64), rows, columns, keys)
    while (outside := x >= np.uint64(n)).any():  # fewer than rows points lie outside: seldom
        x[outside] = _feistel(x[outside], rows, columns, keys)
    return x.astype(np.int64)


def samples_at(positions: NDArray[np.int64], n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(epochs ``[N]``, image indices ``[N]``) at these positions of the stream over ``n`` images."""
    epochs, places = np.divmod(positions, n)
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permuted(places[here], n, seed, int(epoch))
    return epochs, indices


@dataclass(frozen=True)
class Order:
    """Which image comes when: of one dataset, or of several that are mixed.

    ``sizes``: images of each; an index counts through all. ``slots``: how many of MIX_BLOCK samples each gives.
    """

    sizes: tuple[int, ...]
    slots: tuple[int, ...] = (MIX_BLOCK,)

    @classmethod
    def mixed(cls, sizes: Sequence[int], weights: Sequence[float]) -> Order:
        """``weights`` need not sum to 1. Raises ValueError for one too small to have a sample in a block."""
        exact = np.array(weights, dtype=np.float64) / math.fsum(weights) * MIX_BLOCK
        slots = np.floor(exact).astype(np.int64)
        most_cut = np.argsort(slots - exact, kind="stable")  # largest remainders first
        slots[most_cut[: MIX_BLOCK - int(slots.sum())]] += 1
        if (slots == 0).any():
            least = weights[int(slots.argmin())]
            raise ValueError(f"weight {least:g} is less than 1/{MIX_BLOCK} of all weights together")
        return cls(tuple(sizes), tuple(slots.tolist()))

    def samples_at(self, positions: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(epochs ``[N]`` of the dataset an image is from, image indices ``[N]``) at these positions of the stream."""
        if len(self.sizes) == 1:
            return samples_at(positions, self.sizes[0], seed)
        sources, counts = _mixed(positions, self.slots, seed)
        epochs, indices = np.empty_like(positions), np.empty_like(positions)
        for source in np.unique(sources):
            here = sources == source
            own = int.from_bytes(digest(seed, "mixed dataset", int(source), size=8), "little")
            epochs[here], indices[here] = samples_at(counts[here], self.sizes[source], own)
            indices[here] += sum(self.sizes[:source])
        return epochs, indices

    def dataset_of(self, index: int) -> range:
        """The indices of the dataset that the image at ``index`` is from."""
        start = 0
        for size in self.sizes:
            if index < start + size:
                return range(start, start + size)
            start += size
        raise IndexError(f"{index} is not below {start}")


def _mixed(positions: NDArray[np.int64], slots: tuple[int, ...], seed: int) -> tuple[NDArray[np.int64], ...]:
    """(datasets ``[N]``, how many samples each of them gave before ``[N]``) at these positions."""
    blocks, places = np.divmod(positions, MIX_BLOCK)
    sources, counts = np.empty_like(positions), np.empty_like(positions)
    for block in np.unique(blocks):
        here = blocks == block
        order, before = _arrangement(slots, seed, int(block))
        sources[here] = order[places[here]]
        counts[here] = int(block) * np.array(slots)[sources[here]] + before[places[here]]
    return sources, counts


@lru_cache(maxsize=4)
def _arrangement(slots: tuple[int, ...], seed: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(dataset of each place of a block, how many places before have the same), ``[MIX_BLOCK]`` each."""
    order = generator(seed, "mixture", block).permutation(np.repeat(np.arange(len(slots)), slots))
    before = np.empty(MIX_BLOCK, dtype=np.int64)
    before[np.argsort(order, kind="stable")] = np.concatenate([np.arange(n) for n in slots])
    return order, before


def rank_positions(position: int, batch_size: int, rank: int, world_size: int) -> NDArray[np.int64]:
    """This process's slice ``[B]`` of the global batch that starts at ``position``: slots rank*B up to (rank+1)*B."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    start = position + rank * batch_size
    return np.arange(start, start + batch_size, dtype=np.int64)
