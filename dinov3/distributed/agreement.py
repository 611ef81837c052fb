"""Work that every process must finish, or none: an error on one is an error on all, so that nobody waits for ever."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

from dinov3.distributed.collectives import Group, broadcast_object, gather_objects
from dinov3.distributed.context import is_main, rank
from dinov3.distributed.peers import Peers
from dinov3.system.errors import EXIT_IO, Foreseeable

T = TypeVar("T")
AGREED = "every process of the run raises this"
SAID_BY_ANOTHER_RUN = "a run that shares the teacher's pass says this"
# CheckpointException is a BaseException: `except Exception` would miss a failed save.
FORESEEN = (Foreseeable, OSError)
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


def every_process(action: Callable[[], T], group: Group = None) -> list[T]:
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


def main_process(action: Callable[[], T], group: Group = None) -> T:
    """Run ``action`` on the main process; its result everywhere. Raises SharedFailure on all when it fails."""
    return cast(T, every_process(lambda: action() if is_main() else None, group)[0])


def all_processes_or_none(action: Callable[[], T]) -> T:
    """Run ``action``, which must not talk to other processes, on every process; returns this process's result.

    When it fails on one with an error that is foreseen or the system's (OSError), every process raises: its own error,
    or that of the first process that has one.
    """
    done: _Done[T] | None = None
    own: Exception | None = None
    try:
        done = _Done(action())
    except FORESEEN as error:
        own = error
    problems = gather_objects(None if own is None else (type(own), _code(own), str(own)))
    failed = [(number, *problem) for number, problem in enumerate(problems) if problem is not None]
    if done is not None and not failed:
        return done.value
    if own is None:
        number, kind, code, text = failed[0]
        own = _made(kind, code, f"process {number}: {text}")
    own.add_note(AGREED)
    raise own


def all_runs_or_none(action: Callable[[], T], peers: Peers) -> T:
    """Run ``action``; a foreseen error in one run is an error in all that were started with it, said by the first.

    ``action`` may talk to the processes of its own run, and raises on all of them or on none. Without other runs it is
    just run.
    """
    result: T | None = None
    own: Exception | None = None
    try:
        result = action()
    except FORESEEN as error:
        own = error
    said = peers.texts(None if own is None else f"{_code(own)} {own}")
    failed = [number for number, text in enumerate(said) if text is not None]
    if not failed:
        return cast(T, result)
    if own is None:
        code, _, text = str(said[failed[0]]).partition(" ")
        own = _made(Foreseeable, int(code), text)
    if peers.several and failed[0] != peers.number:
        own.add_note(SAID_BY_ANOTHER_RUN)
    raise own


def _code(error: Exception) -> int:
    return error.code if isinstance(error, Foreseeable) else EXIT_IO


def _made(kind: type[Exception], code: int, text: str) -> Exception:
    """An error of this kind with this text, whatever its constructor takes."""
    error = kind.__new__(kind)
    error.args = (text,)
    if isinstance(error, Foreseeable):
        error.code = code
    return error


def is_said_by_another_run(error: BaseException) -> bool:
    """Whether a run that was started with this one reports the same error."""
    return SAID_BY_ANOTHER_RUN in getattr(error, "__notes__", ())


def is_shared(error: BaseException) -> bool:
    """Whether every process raises this error, so that one of them is enough to report it."""
    return AGREED in getattr(error, "__notes__", ()) or isinstance(error.__cause__, SharedFailure)


def main_decides(action: Callable[[], T]) -> T:
    """Run ``action`` on the main process; its result, or its foreseen error, on every process."""
    done: _Done[T] | None = None
    own: Exception | None = None
    if is_main():
        try:
            done = _Done(action())
        except FORESEEN as error:
            own = error
    problem = None if own is None else (type(own), _code(own), str(own))
    done, problem = broadcast_object((done, problem))
    if problem is not None:
        shared = _made(*problem)
        shared.add_note(AGREED)
        raise shared from own
    assert done is not None  # the main process has one or the other
    return done.value


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
