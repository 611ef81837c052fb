"""What goes wrong with weights, and text of files made fit for one line."""

from __future__ import annotations

from dinov3.system.errors import Foreseeable


class WeightsError(Foreseeable):
    """A weight file cannot be used; the message is one line, names the file and says why."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.splitlines()))


def clipped(text: object, length: int = 160) -> str:
    """``text`` fit for a line: what comes out of a file may hold line breaks or terminal codes, or be very long."""
    return ascii(str(text)[:length])[1:-1][:length]


def one_line(error: Exception) -> str:
    """The message of another library's error, on one line, or its class when it has none."""
    return clipped(" ".join(str(error).split())) or type(error).__name__
