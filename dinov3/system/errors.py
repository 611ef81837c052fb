"""What is foreseen to go wrong, and the exit codes of every command."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_USAGE = 2  # words that the command does not take, or one that it lacks
EXIT_NON_FINITE = 70  # too many steps in a row had a loss or gradient that is nan or inf
EXIT_FORGOTTEN = 71  # an evaluation fell below a limit the config sets; the state is saved
EXIT_IO = 74  # a checkpoint or a file could not be written or read
EXIT_LOCKED = 75  # another process holds the run folder
EXIT_CONFIG = 78  # the config or the data cannot be used; nothing was started
EXIT_HANG = 79  # no step for too long
EXIT_PREEMPTED = 85  # a signal asked for the end; the state is saved
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Foreseeable(Exception):
    """An error whose text is one line that says what to do; ``code`` is what the command ends with."""

    code: int = EXIT_CONFIG


class UsageError(Foreseeable):
    """Words that a command does not take, or one that it lacks."""

    code = EXIT_USAGE


def first_line(error: BaseException) -> str:
    """What another library says, in one line; the class of an error that says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
