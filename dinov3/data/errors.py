"""What goes wrong with data, by who has to act."""

from __future__ import annotations

from dinov3.config.shown import shown
from dinov3.system.errors import EXIT_HANG, EXIT_IO, Foreseeable


class DataError(Foreseeable):
    """The dataset cannot be used as named. The text is one line that names the path and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))  # a path may hold line breaks, and characters that steer a terminal


class BadImage(Exception):
    """One image cannot be read; the text is the reason. The loader puts another image in its place."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))  # decoders quote what they met


class TooManyBadSamples(Foreseeable):
    """More images were unreadable than ``data.max_bad_frac`` allows."""

    code = EXIT_IO

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


class LoaderError(Foreseeable):
    """A worker died, hung or failed; the text names the worker, the sample and what to look at."""

    code = EXIT_IO


class LoaderHang(LoaderError):
    """No worker has said anything for too long."""

    code = EXIT_HANG
