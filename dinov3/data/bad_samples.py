"""Images that could not be read: counted, written down once, and the end of the run when there are too many."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dinov3.config.shown import shown
from dinov3.data.errors import TooManyBadSamples
from dinov3.system.rows import append_row

LEAST_SAMPLES = 300  # the share is taken over at least so many, so that one bad file of the first ten ends nothing


@dataclass(frozen=True)
class BadSample:
    """One unreadable image."""

    name: str
    reason: str


class BadSampleLog:
    """Appends each bad image to a file of JSON lines once, whoever wrote the earlier lines.

    A full disk or a power cut leaves half a line: it is passed over, and what is appended begins a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0  # bytes
        self._names: set[str] = set()

    def __call__(self, bad: BadSample) -> None:
        self._catch_up()
        if bad.name not in self._names:
            append_row(self.path, asdict(bad))

    def images(self) -> int:
        """How many images are listed: those of this run, whichever process met them, since its first start."""
        self._catch_up()
        return len(self._names)

    def summary(self) -> str | None:
        """A line for the end of a run; None when every image could be read."""
        number = self.images()
        if not number:
            return None
        images = "1 image was" if number == 1 else f"{number:,} images were"
        return f"{images} unreadable and left out: listed with the reasons in {shown(str(self.path))}"

    def _catch_up(self) -> None:
        """Learn the names that this or another process has written; a half-written last line waits."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError, RecursionError, LookupError, TypeError):  # half a line, or noise
                    self._names.add(json.loads(line)["name"])


def left_out_note(bad: Sequence[BadSample], images: int, data: str, lost: str = "") -> list[str]:
    """A note on images of ``data``, ``images`` in all, that could not be read and are in no score; none when all could.

    ``lost``: more on which they are.
    """
    if not bad:
        return []
    of = "1 image is" if len(bad) == 1 else f"{len(bad):,} of {images:,} images are"
    return [f"note: {data}: {of} unreadable and in no score{lost}; the first, {shown(bad[0].name)}: {bad[0].reason}"]


def raise_limit(limit: float) -> str:
    """What to do when more than the share ``limit`` of a set cannot be used: a run has a key for it, a command an option."""
    return f"mend the data or allow more than {limit:g} (data.max_bad_frac, or --max-bad-frac of a command)"


def by_chance(limit: float, samples: int) -> float:
    """The most of ``samples`` that may be bad where a share of ``limit`` is: three standard deviations above it."""
    expected = limit * samples
    return expected + 3 * math.sqrt(expected)


class BadSampleCount:
    """How many of this process's samples were bad. Ends the run above ``limit``, a share of all samples.

    Chance is allowed for: the run ends when there are more than three standard deviations above the limit.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.bad = self.samples = 0

    def add(self, samples: int, bad: list[BadSample]) -> None:
        """Count one batch. Raises TooManyBadSamples."""
        self.samples += samples
        self.bad += len(bad)
        if self.bad > by_chance(self.limit, max(self.samples, LEAST_SAMPLES)):
            raise TooManyBadSamples(
                f"{self.bad} unreadable images among {self.samples} samples, the last {bad[-1].name}: {bad[-1].reason}; "
                f"data.max_bad_frac is {self.limit:g}: mend the data or raise it"
            )
