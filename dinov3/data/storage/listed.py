"""What the sources that keep a list of their images have in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dinov3.data.storage.identity import Identity
from dinov3.data.storage.index_cache import Index
from dinov3.data.storage.labels import NO_LABEL


class Listed:
    """Images of ``_index``: its array ``labels`` has their classes, its fact ``fingerprint`` a hash of what they are."""

    _index: Index
    beside: Mapping[str, int] = MappingProxyType({})  # further files that are left out, by reason

    @property
    def left_out(self) -> dict[str, int]:
        """``suffix: reason`` -> how many files or members are not used."""
        return {**self._index.facts.get("left_out", {}), **self.beside}

    def label(self, index: int) -> int | None:
        """Its class, None when it has none."""
        label = int(self._index.arrays["labels"][index])
        return label if label > NO_LABEL else None

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, by number; None when the data set gives numbers."""
        return self._index.facts.get("classes") or None

    def identity(self) -> Identity:
        """What its images are, where they are, and what an older run recorded of them."""
        return Identity(self._content(), self._place(), self.fingerprint())

    def _content(self) -> str:
        raise NotImplementedError

    def _place(self) -> str:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Kind of source, and a hash of names, or of shapes: what runs begun before recorded. See ``identity``."""
        return f"{type(self).__name__}-{self._index.facts['fingerprint']}"

    def version(self) -> str:
        """A hash of the list, the classes, and the place, size and time of writing of every file it was made from."""
        return self._index.version()
