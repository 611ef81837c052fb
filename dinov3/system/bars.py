"""How far a command is: a bar on a terminal, lines anywhere else (a bar in a file is one line of megabytes)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self

from tqdm import tqdm

from dinov3.system.console import stderr

SOON, MINUTE = 10.0, 60.0  # seconds until the first line, and between later ones
Count = Callable[[int], object]  # called with how many more are done


def width() -> dict[str, Any]:
    """What tqdm is told of the width: that of the terminal, also after a change of it.

    A terminal without a size (a serial line, a container's) would get bars of no letters, and none: tqdm hides what lies
    below the last row.
    """
    try:
        known = os.get_terminal_size(stderr().fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


class Bar:
    """``update(n)`` for each n of ``total`` that are done; a context manager."""

    def __init__(self, total: int, *, about: str, unit: str, shown: bool = True) -> None:
        """``about``: what is done; ``unit``: what is counted, in the plural."""
        self._moving = shown and stderr().isatty()
        self._bar = tqdm(total=total, desc=about, unit=f" {unit}", **width(), disable=not self._moving)
        self._total, self._about, self._unit, self._shown = total, about, unit, shown
        self._done, self._began = 0, time.monotonic()
        self._next = self._began + SOON

    def update(self, more: int = 1) -> None:
        self._done += more
        self._bar.update(more)
        if self._shown and not self._moving and self._done and (now := time.monotonic()) >= self._next:
            self._next = now + MINUTE
            left = timedelta(seconds=round((now - self._began) * (self._total - self._done) / self._done))
            print(
                f"{self._about}: {self._done:,} of {self._total:,} {self._unit}, {left} left",
                file=stderr(),
                flush=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


class Counting(Protocol):
    """What shows how far a part of some work is, where the work does not know who is watching."""

    def __call__(self, about: str, total: int, unit: str) -> AbstractContextManager[Count]:
        """``about`` and ``unit`` as a Bar has them."""


@contextmanager
def counted(about: str, total: int, unit: str) -> Iterator[Count]:
    """By a Bar of its own."""
    with Bar(total, about=about, unit=unit) as bar:
        yield bar.update
