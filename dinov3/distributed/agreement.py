"""Work that every process must finish, or none: an error on one is an error on all, so that nobody waits for ever."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

from dinov3.distributed import siblings
from dinov3.distributed.collectives import Group, broadcast_object, gather_objects
from dinov3.distributed.context import is_main, rank

T = TypeVar("T")
AGREED = "every process of the run raises this"
SAID_BY_ANOTHER_RUN = "a run that shares the teacher's pass says this"
# CheckpointException is a BaseException: `except Exception` would miss a failed save.
FAILURES = (OSError, RuntimeError, ValueError, MemoryError, SafetensorError, CheckpointException)


class SharedFailure(Exception):
    """What failed and, with several processes, on which; the text is one line. ``error`` is this process's own, if any."""


@dataclass(frozen=True)
class _Done(Generic[T]):
    """What an action returned."""

    value: T


@dataclass(frozen=True)
class _Failed:
    """What an action raised, in words."""

    text: str


def on_every(action: Callable[[], T], group: Group = None) -> list[T]:
    """Run ``action`` on every process; the results by rank. Raises SharedFailure on all when it fails on one.

    They agree through ``group``, which holds them all; a thread beside training needs one of its own.
    """
    own: _Done[T] | _Failed
    cause: BaseException | None = None
    try:
        own = _Done(action())
    except FAILURES as error:
        cause, own = error, _Failed(in_one_line(error))
    results: list[T] = []
    outcomes = gather_objects(own, group)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, _Failed):
            where = f"process {number}: " if len(outcomes) > 1 else ""
            raise SharedFailure(where + outcome.text) from (cause if number == rank() else None)
        results.append(outcome.value)
    return results


def on_main(action: Callable[[], T], group: Group = None) -> T:
    """Run ``action`` on the main process; its result everywhere. Raises SharedFailure on all when it fails."""
    return cast(T, on_every(lambda: action() if is_main() else None, group)[0])


def same_fate(action: Callable[[], T], kinds: tuple[type[Exception], ...]) -> T:
    """Run ``action``, which must not talk to other processes, on every process; the own result.

    When it fails on one with an error of ``kinds``, every process raises: the own error, or the first process's.
    """
    done: _Done[T] | None = None
    own: Exception | None = None
    try:
        done = _Done(action())
    except kinds as error:
        own = error
    problems = gather_objects(None if own is None else (type(own), str(own)))
    failed = [(number, *problem) for number, problem in enumerate(problems) if problem is not None]
    if done is not None and not failed:
        return done.value
    if own is None:
        number, kind, text = failed[0]
        own = _made(kind, f"process {number}: {text}")
    own.add_note(AGREED)
    raise own


def one_fate(action: Callable[[], T], kinds: tuple[type[Exception], ...]) -> T:
    """Run ``action``; an error of ``kinds`` in one run is an error in all that were started with it, said by the first.

    ``action`` may talk to the processes of its own run, and raises on all of them or on none. Without other runs it is
    just run.
    """
    result: T | None = None
    own: Exception | None = None
    try:
        result = action()
    except kinds as error:
        own = error
    said = siblings.texts(None if own is None else f"{kinds.index(_kind(own, kinds))} {own}")
    failed = [number for number, text in enumerate(said) if text is not None]
    if not failed:
        return cast(T, result)
    if own is None:
        index, _, text = str(said[failed[0]]).partition(" ")
        own = _made(kinds[int(index)], text)
    if failed[0] != siblings.number():
        own.add_note(SAID_BY_ANOTHER_RUN)
    raise own


def _kind(error: Exception, kinds: tuple[type[Exception], ...]) -> type[Exception]:
    return next(kind for kind in kinds if isinstance(error, kind))


def _made(kind: type[Exception], text: str) -> Exception:
    """An error of this kind with this text, whatever its constructor takes."""
    error = kind.__new__(kind)
    error.args = (text,)
    return error


def is_said_by_another_run(error: BaseException) -> bool:
    """Whether a run that was started with this one reports the same error."""
    return SAID_BY_ANOTHER_RUN in getattr(error, "__notes__", ())


def is_shared(error: BaseException) -> bool:
    """Whether every process raises this error, so that one of them is enough to report it."""
    return AGREED in getattr(error, "__notes__", ()) or isinstance(error.__cause__, SharedFailure)


def same_on_all(action: Callable[[], T], kind: type[Exception]) -> T:
    """Run ``action`` on the main process; its result, or its ``kind`` of error, on every process."""
    outcome: _Done[T] | _Failed | None = None
    if is_main():
        try:
            outcome = _Done(action())
        except kind as error:
            outcome = _Failed(str(error))
    outcome = broadcast_object(outcome)
    assert outcome is not None  # it is the main process's
    if isinstance(outcome, _Failed):
        shared = kind(outcome.text)
        shared.add_note(AGREED)
        raise shared
    return outcome.value


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
