"""What a dataset is: an index to image bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dinov3.data.storage.identity import Identity


class Source(Protocol):
    """A dataset with random access. It must pickle small: every worker process gets a copy."""

    def __len__(self) -> int:
        """Images."""
        ...

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """The encoded image, or its pixels ``[H, W, C]`` uint8. Raises OSError or BadImage."""
        ...

    def label(self, index: int) -> int | None:
        """Its class, None when it has none."""
        ...

    def name(self, index: int) -> str:
        """What to call it in a message: a path where there is one."""
        ...

    def identity(self) -> Identity:
        """What its images are, wherever they lie and whatever their classes; where they lie; what older runs recorded."""
        ...

    def fingerprint(self) -> str:
        """What runs begun before recorded: a hash of names or shapes, the same for other images of the same names."""
        ...

    def version(self) -> str:
        """Another text as soon as a file was written or lies elsewhere, or a class or the order has changed."""
        ...


@runtime_checkable
class Joined(Protocol):
    """A source made of others."""

    parts: Sequence[Source]


@runtime_checkable
class LeavesOut(Protocol):
    """A source that knows what lies beside its images and is not used."""

    @property
    def left_out(self) -> dict[str, int]:
        """``suffix: reason`` -> how many files or members."""
        ...


@runtime_checkable
class PartlyDamaged(Protocol):
    """A source some of whose files end too early or hold nonsense, and are used up to there."""

    damaged: dict[str, str]  # file -> what is wrong with it
