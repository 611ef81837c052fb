"""Files a source keeps open."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Handles(Generic[T]):
    """Opened things by number or another key, at most ``most`` at a time; the one unused for longest is closed.

    Every process opens its own: a forked child and a pickled copy start with none.
    """

    def __init__(self, most: int, close: Callable[[T], object] | None = None) -> None:
        self._most, self._close = most, close
        self._open: OrderedDict[Hashable, T] = OrderedDict()
        self._owner = os.getpid()
        self._inherited: list[OrderedDict[Hashable, T]] = []  # of the parent: neither used nor closed here

    def get(self, number: Hashable, opening: Callable[[], T]) -> T:
        """The thing with this number, or key, opened if need be."""
        if self._owner != os.getpid():
            self._inherited.append(self._open)
            self._open, self._owner = OrderedDict(), os.getpid()
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= self._most:
            self._drop(self._open.popitem(last=False)[1])
        self._open[number] = opening()
        return self._open[number]

    def _drop(self, handle: T) -> None:
        if self._close is not None:
            self._close(handle)

    def __reduce__(self) -> tuple[type[Handles[T]], tuple[int, Callable[[T], object] | None]]:
        return type(self), (self._most, self._close)

    def __del__(self) -> None:
        # when Python ends, what closing needs may be gone; the system closes files
        if getattr(self, "_owner", None) == os.getpid() and not sys.is_finalizing():
            for handle in self._open.values():
                self._drop(handle)
