"""Several datasets as one, joined or mixed by weight: ``train.dataset_path`` as a list.

Without weights they are one dataset: every image comes once an epoch. With weights each gives its share of the samples
and has an epoch of its own, so a small one comes round more often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dinov3.config.redaction import without_secrets
from dinov3.config.schema import DatasetPart
from dinov3.config.shown import shown
from dinov3.data.errors import DataError
from dinov3.data.order import Order
from dinov3.data.sources.parse import parse_dataset
from dinov3.data.sources.source import LeavesOut, PartlyDamaged, Source
from dinov3.data.storage.identity import VERSION, Identity
from dinov3.data.storage.left_out import lines
from dinov3.data.storage.segments import place


def open_dataset(named: str | Sequence[str | DatasetPart]) -> Source:
    """What ``train.dataset_path`` names. Raises DataError."""
    if isinstance(named, str):
        return parse_dataset(named)
    parts = [part if isinstance(part, DatasetPart) else DatasetPart(part) for part in named]
    weights = [part.weight for part in parts if part.weight is not None]
    if weights and len(weights) < len(parts):
        raise DataError("of the data sets in the list some have a weight and some have none: give it to all or to none")
    return Mixture([part.path for part in parts], [parse_dataset(part.path) for part in parts], weights or None)


def title(named: str | Sequence[str | DatasetPart]) -> str:
    """What ``train.dataset_path`` is called in a line, without a token or password it may hold."""
    return without_secrets(named) if isinstance(named, str) else f"{len(named)} data sets"


def left_out_lines(source: Source) -> list[str]:
    """``34 .avif left out: not a format read here``: a line for each suffix that a data set holds and that is not used."""
    if isinstance(source, Mixture):
        parts = zip(source.names, source.parts, strict=True)
        return [f"{shown(name)}: {line}" for name, part in parts for line in left_out_lines(part)]
    return lines(source.left_out) if isinstance(source, LeavesOut) else []


def order_of(source: Source) -> Order:
    """The order in which its images come."""
    return source.order if isinstance(source, Mixture) else Order((len(source),))


class Mixture:
    """``parts`` one after another; ``names`` are theirs in messages. ``weights`` None: as if they were one dataset."""

    def __init__(self, names: Sequence[str], parts: Sequence[Source], weights: Sequence[float] | None = None) -> None:
        self.names, self.parts = list(names), list(parts)
        sizes = [len(part) for part in parts]
        if 0 in sizes:
            raise DataError(f"{self.names[sizes.index(0)]}: contains no images")
        self._ends = np.cumsum(sizes)
        try:
            self.order = Order((sum(sizes),)) if weights is None else Order.mixed(sizes, weights)
        except ValueError as error:
            raise DataError(f"train.dataset_path: {error}") from None
        shares = sizes if weights is None else self.order.slots
        self.shares = [share / sum(shares) for share in shares]  # of the samples

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def damaged(self) -> dict[str, str]:
        """File -> what is wrong with it, of all parts."""
        damages = [part.damaged for part in self.parts if isinstance(part, PartlyDamaged)]
        return {file: problem for damaged in damages for file, problem in damaged.items()}

    def _place(self, index: int) -> tuple[Source, int]:
        """(part, index in it)."""
        number, inside = place(self._ends, index)
        return self.parts[number], inside

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """As its part gives it."""
        part, inside = self._place(index)
        return part.read(inside)

    def label(self, index: int) -> int | None:
        """None: class numbers of different datasets do not mean the same."""
        return None

    def name(self, index: int) -> str:
        """As its part calls it."""
        part, inside = self._place(index)
        return part.name(inside)

    def fingerprint(self) -> str:
        """A hash of the parts' fingerprints and their shares."""
        return self._hash_of([part.fingerprint() for part in self.parts])

    def _hash_of(self, parts: Sequence[str]) -> str:
        text = "\n".join([*parts, *map(str, self.order.slots)])
        return f"Mixture-{hashlib.blake2b(text.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"

    def identity(self) -> Identity:
        """Of the parts and their shares."""
        parts = [part.identity() for part in self.parts]
        text = "\n".join([*(part.content for part in parts), *map(str, self.order.slots)])
        content = VERSION + hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        legacy = self._hash_of([part.legacy for part in parts])
        return Identity(content, ", ".join(part.place for part in parts), legacy)

    def version(self) -> str:
        """A hash of the parts' versions and their shares."""
        text = "\n".join([*(part.version() for part in self.parts), *map(str, self.order.slots)])
        return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()

    def table(self) -> list[str]:
        """A line a part: its share of the samples, its size and its name."""
        return [
            f"{100 * share:5.1f} %  {len(part):>13,} images  {name}"
            for name, part, share in zip(self.names, self.parts, self.shares, strict=True)
        ]
