"""What goes wrong with data, by who has to act."""

from __future__ import annotations


class DataError(Exception):
    """The dataset cannot be used as named. The text is one line that names the path and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(text.replace("\n", "\\n"))  # a path may hold line breaks


class BadImage(Exception):
    """One image cannot be read; the text is the reason. The loader puts another image in its place."""


class TooManyBadSamples(Exception):
    """More images were unreadable than ``data.max_bad_frac`` allows."""


class LoaderError(Exception):
    """A worker died, hung or failed; the text names the worker, the sample and what to look at."""


class LoaderHang(LoaderError):
    """No worker has said anything for too long."""
