"""What a wrong config raises, and the exit codes of every command."""

from __future__ import annotations

EXIT_DONE = 0
EXIT_NON_FINITE = 70  # too many steps in a row had a loss or gradient that is nan or inf
EXIT_FORGOTTEN = 71  # an evaluation fell below a limit the config sets; the state is saved
EXIT_IO = 74  # a checkpoint or a file could not be written or read
EXIT_LOCKED = 75  # another process holds the run folder
EXIT_CONFIG = 78  # the config or the data cannot be used; nothing was started
EXIT_HANG = 79  # no step for too long
EXIT_PREEMPTED = 85  # a signal asked for the end; the state is saved


class ConfigError(Exception):
    """A config cannot be used. The text is one line, ``source: key: problem``; the command ends with EXIT_CONFIG.

    ``source`` is the file, or ``command line``; ``key`` is dotted, and empty when the problem is the file itself.
    """

    def __init__(self, source: str, key: str, problem: str) -> None:
        self.source, self.key, self.problem = source, key, problem
        line = ": ".join(part for part in (source, key, problem) if part)
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


class KeyProblem(Exception):
    """What is wrong with one key, before it is known which file or argument gave it."""

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        super().__init__(f"{key}: {problem}")
