"""The ``key=value`` part of a dataset string, read strictly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinov3.data.errors import DataError
from dinov3.system.paths import expanded


class Options:
    """Values are taken by name; ``finish`` refuses what nobody took. Every error names the dataset string."""

    def __init__(self, text: str, values: dict[str, str]) -> None:
        self.text = text
        self._values = dict(values)
        self._known: list[str] = []

    def string(self, key: str, default: str | None = None) -> str:
        """The value of ``key``. Without a ``default`` it must be given."""
        self._known.append(key)
        value = self._values.pop(key, default)
        if value is None:
            given = f"; given: {', '.join(self._values)}" if self._values else ""
            raise self.error(f"{key}= is missing{given}")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of ``choices``."""
        value = self.string(key, default)
        if value not in choices:
            raise self.error(f"{key}={value} is not one of {', '.join(choices)}")
        return value

    def integer(self, key: str, default: int, least: int) -> int:
        """A whole number of at least ``least``."""
        value = self.string(key, str(default))
        try:
            number = int(value)
        except ValueError:
            raise self.error(f"{key}={value} is not a whole number") from None
        if number < least:
            raise self.error(f"{key}={value} is less than {least}")
        return number

    def path(self, key: str) -> Path:
        """A local path, ``~`` expanded."""
        return local_path(self.string(key))

    def finish(self) -> None:
        """Raise DataError when an option was given that nobody reads."""
        if self._values:
            unknown = ", ".join(self._values)
            raise self.error(f"unknown option {unknown}; there is {', '.join(self._known)}")

    def error(self, problem: str) -> DataError:
        """A DataError about this dataset string."""
        return DataError(f"{self.text}: {problem}")


def local_path(text: str) -> Path:
    """``text`` as a path. Raises DataError for what is not one: URLs and commands are never opened."""
    scheme = text.split(":", 1)[0]
    if "://" in text or (scheme != text and scheme in ("pipe", "file", "http", "https", "s3", "gs", "hf")):
        raise DataError(f"{text}: only local paths are read; copy the data to this machine first")
    return expanded(text)
