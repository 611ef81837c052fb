"""What a wrong config raises."""

from __future__ import annotations

from dinov3.system.errors import Foreseeable


class ConfigError(Foreseeable):
    """A config cannot be used. The text is one line, ``source: key: problem``.

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
