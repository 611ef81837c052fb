"""Work that every process must finish, or none: an error on one is an error on all, so that nobody waits for ever."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

from dinov3.distributed.collectives import Group, broadcast_object, gather_objects
from dinov3.distributed.context import is_main, rank

T = TypeVar("T")
AGREED = "every process of the run raises this"
# CheckpointException is a BaseException: `except Exception` would miss a failed save.
FAILURES = (OSError, RuntimeError, ValueError, MemoryError, SafetensorError, CheckpointException)


class SharedFailure(Exception):
    """What failed and, with several processes, on which; the text is one line. ``error`` is this process's own, if any."""


def on_every(action: Callable[[], T], group: Group = None) -> list[T]:
    """Run ``action`` on every process; the results by rank. Raises SharedFailure on all when it fails on one.

    They agree through ``group``, which holds them all; a thread beside training needs one of its own.
    """
    result, problem = None, None
    cause: BaseException | None = None
    try:
        result = action()
    except FAILURES as error:
        cause, problem = error, in_one_line(error)
    outcomes = gather_objects((result, problem), group)
    for number, (_, text) in enumerate(outcomes):
        if text is not None:
            where = f"process {number}: " if len(outcomes) > 1 else ""
            raise SharedFailure(where + text) from (cause if number == rank() else None)
    return [value for value, _ in outcomes]  # type: ignore[misc]


def on_main(action: Callable[[], T], group: Group = None) -> T:
    """Run ``action`` on the main process; its result everywhere. Raises SharedFailure on all when it fails."""
    return on_every(lambda: action() if is_main() else None, group)[0]  # type: ignore[return-value]


def same_fate(action: Callable[[], T], kinds: tuple[type[Exception], ...]) -> T:
    """Run ``action``, which must not talk to other processes, on every process; the own result.

    When it fails on one with an error of ``kinds``, every process raises: the own error, or the first process's.
    """
    result: T | None = None
    own: Exception | None = None
    try:
        result = action()
    except kinds as error:
        own = error
    problems = gather_objects(None if own is None else (type(own), str(own)))
    failed = [number for number, problem in enumerate(problems) if problem is not None]
    if not failed:
        return result  # type: ignore[return-value]
    if own is None:
        kind, text = problems[failed[0]]  # type: ignore[misc]
        own = kind.__new__(kind)
        own.args = (f"process {failed[0]}: {text}",)
    own.add_note(AGREED)
    raise own


def is_shared(error: BaseException) -> bool:
    """Whether every process raises this error, so that one of them is enough to report it."""
    return AGREED in getattr(error, "__notes__", ()) or isinstance(error.__cause__, SharedFailure)


def same_on_all(action: Callable[[], T], kind: type[Exception]) -> T:
    """Run ``action`` on the main process; its result, or its ``kind`` of error, on every process."""
    value, text = None, None
    if is_main():
        try:
            value = action()
        except kind as error:
            text = str(error)
    value, text = broadcast_object((value, text))  # type: ignore[misc]
    if text is not None:
        shared = kind(text)
        shared.add_note(AGREED)
        raise shared
    return value  # type: ignore[return-value]


def in_one_line(error: BaseException) -> str:
    """The text of an error; of the error behind it when the checkpoint library wrapped it."""
    if isinstance(error, CheckpointException):
        number, (inner, _) = next(iter(error.failures.items()))
        return f"process {number}: {in_one_line(inner)}" if len(error.failures) > 1 or number else in_one_line(inner)
    if isinstance(error, OSError) and error.strerror:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.strerror.startswith("disk full")
        where = f": {error.filename}" if error.filename else ""
        return f"{'disk full: ' if full else ''}{error.strerror}{where}"
    return " ".join(str(error).split()) or type(error).__name__
