"""One piece of work at a time beside training, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs one action at a time. What it returns or raises comes out of ``result``, in the caller's thread."""

    def __init__(self) -> None:
        self.title = ""  # of the action, for messages
        self._pool = ThreadPoolExecutor(1, "dinov3-background")  # no thread before the first action
        self._future: Future[T] | None = None

    @property
    def busy(self) -> bool:
        """An action was started and its result not taken."""
        return self._future is not None

    @property
    def ended(self) -> bool:
        """There is a result to be taken at once."""
        return self._future is not None and self._future.done()

    def start(self, title: str, action: Callable[[], T]) -> None:
        """Begin ``action``. RuntimeError when the result of the one before was not taken."""
        if self._future is not None:
            raise RuntimeError(f"{title} cannot begin: the result of {self.title} was not taken")
        self.title, self._future = title, self._pool.submit(action)

    def result(self) -> T:
        """Wait for the action; its value, or its error. RuntimeError when none was started."""
        if self._future is None:
            raise RuntimeError("nothing was started")
        future, self._future = self._future, None
        return future.result()
