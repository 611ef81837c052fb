"""A labelled data set in two parts: ``HeldOut:of=/data/birds:part=test`` is every fifth image of each class."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from dinov3.data.sources.options import Options
from dinov3.data.sources.parse import parse_dataset
from dinov3.data.sources.source import Source
from dinov3.data.storage.identity import VERSION, Identity
from dinov3.data.storage.labels import every_label

NAME = "HeldOut"
EVERY = 5  # as `dinov3 eval` holds out, so that both score the same images
PARTS = ("train", "test")


def open_source(options: Options) -> HeldOut:
    """``HeldOut:of=DATASET:part=train|test``; a colon inside DATASET is written ``\\:``."""
    of, part = options.string("of"), options.choice("part", PARTS, "train")
    options.finish()
    source = parse_dataset(of)
    held = held_out(every_label(source, of, "images are held out class by class, which needs subfolders or labels"))
    if not held.any():
        raise options.error(f"no class has {EVERY} images")
    return HeldOut(source, part, np.flatnonzero(held == (part == "test")))


def held_out(labels: list[int]) -> NDArray[np.bool_]:
    """``[N]``: whether an image is the fifth, tenth, … of its class."""
    seen: Counter[int] = Counter()
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for index, label in enumerate(labels):
        seen[label] += 1
        chosen[index] = seen[label] % EVERY == 0
    return chosen


class HeldOut:
    """The images of ``source`` at ``indices``."""

    def __init__(self, source: Source, part: str, indices: NDArray[np.int64]) -> None:
        self.source, self.part, self.indices = source, part, indices

    @property
    def parts(self) -> list[Source]:
        """What its images come from."""
        return [self.source]

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, where the source has them."""
        found = getattr(self.source, "classes", None)
        return found if isinstance(found, list) else None

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """As the source gives it."""
        return self.source.read(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        """As the source has it."""
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self.source.name(int(self.indices[index]))

    def _of(self, text: str) -> str:
        return f"{text}-HeldOut-{EVERY}-{self.part}"

    def identity(self) -> Identity:
        """That of the source, and which part. Classes decide which images it has, so their number is in it."""
        whole = self.source.identity()
        which = f"-{len(self.indices)}"
        content = VERSION + self._of(whole.content.removeprefix(VERSION)) + which
        return Identity(content, whole.place, self._of(whole.legacy) + which)

    def fingerprint(self) -> str:
        """That of the source, and which part."""
        return self._of(self.source.fingerprint())

    def version(self) -> str:
        """That of the source, and which part."""
        return self._of(self.source.version())
