"""The progress of a run: a line that moves on a terminal, lines that follow one another anywhere else.

Time is that of training steps. Evaluations and saves stand beside them, so that the estimate of what is left does not
count the minutes before the first step as if every step took so long. It is one from the second step on, the first that is
measured, and calls itself one until there are ENOUGH.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tqdm import tqdm

from dinov3.system.bars import Count, width
from dinov3.system.console import stderr

LINES = 100  # of a run whose output is a file, at most, but for one every MINUTE
MINUTE = 60.0  # seconds
ENOUGH = 4  # measured steps, after which what is left is said to the second
OFTEN = 0.5  # seconds between two texts of what is counted, on a terminal
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class ProgressLine:
    """Steps of a run with ETA, images/s, loss and the share of time spent waiting for data."""

    def __init__(self, total: int, start: int, *, shown: bool, figures_every: int = 1) -> None:
        """``figures_every``: the steps from one call of ``describe`` to the next, counted as ``train.log_every`` is."""
        self._total, self._start, self._done, self._shown = total, start, start, shown
        self._every = figures_every
        self._moving = shown and stderr().isatty()
        self._bar = tqdm(
            total=total,
            initial=start,
            disable=not self._moving,
            unit="step",
            delay=1e-9,  # drawn from the first step on, below the start-up block
            **width(),
            bar_format=BAR,
        )
        self._began, self._beside, self._still = time.monotonic(), 0.0, 0.0
        self._at = 0.0  # training seconds when the last step ended
        self._first: float | None = None  # seconds until the first step was done: workers start, memory is found
        self._said_at = self._began  # any line
        self._told_at, self._told_step = -MINUTE, start  # the last line with figures
        self._open = 0  # nested ``beside``

    @property
    def training_seconds(self) -> float:
        """Since the start, without what was done beside steps, and without standing still."""
        return time.monotonic() - self._began - self._beside - self._still

    def leave_out(self, seconds: float) -> None:
        """No step took that: the process was suspended, or a step was jumped over."""
        self._still += seconds
        self._later(seconds)

    def step(self, *, jumped: bool = False) -> None:
        """A step is over. ``jumped``: nothing was computed, so that its time is no measure of the others'."""
        self._done += 1
        if jumped:
            self._start += 1
            self.leave_out(self.training_seconds - self._at)
            self._from_here()
        elif self._first is not None:
            few = self._done - self._start - 1 < ENOUGH
            self._bar.bar_format = BAR.replace("{remaining}", self._left()) if few else BAR
            self._bar.update(1)
        else:
            self._first = self.training_seconds
            self._from_here()
        self._at = self.training_seconds
        if self._shown and not self._moving and not jumped:
            self._announce()

    def _from_here(self) -> None:
        """No rate of tqdm's has the steps so far."""
        if self._moving:
            self._bar.n = self._bar.last_print_n = self._bar.initial = self._done
            self._bar.last_print_t = self._bar.start_t + self._bar.format_dict["elapsed"]
            self._bar.refresh()

    def _announce(self) -> None:
        """Where lines follow one another: the first estimate, and signs of life of steps so slow that figures are far."""
        to_come = -(self._done - 1) % self._every  # steps until figures
        if not to_come or self._done == self._total:
            return
        measured = self._done - self._start > 1
        first = self._done - self._start == 2 and self._seconds_left() >= MINUTE
        far = not measured or self._a_step() * to_come >= MINUTE
        if first or (far and time.monotonic() - self._said_at >= MINUTE):
            self._say(f"step {self._done}/{self._total} [{self._clock()}]")

    def describe(
        self, *, loss: float, images_per_second: float, data_wait: float, share_of_peak: float | None = None
    ) -> None:
        """Show the latest figures. ``data_wait``: share of wall time, ``share_of_peak``: of the cards' operations, 0 to 1."""
        text = f"loss {loss:.4f}, {images_per_second:.1f} images/s, data wait {data_wait:.0%}"
        if share_of_peak is not None:
            text += f", {share_of_peak:.0%} of peak"
        if self._beside >= 1:
            text += f", evaluations and saves {tqdm.format_interval(self._beside)}"
        self._bar.set_postfix_str(text)
        enough = self._done - self._told_step >= max(1, self._total // LINES)
        late = time.monotonic() - self._told_at >= MINUTE
        if self._shown and not self._moving and (enough or self._done == self._total or late):
            self._told_at, self._told_step = time.monotonic(), self._done
            self._say(f"step {self._done}/{self._total} [{self._clock()}, {text}]")

    @contextlib.contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """Time in here is none of the steps'; ``what`` is shown meanwhile."""
        began, self._open = time.monotonic(), self._open + 1
        try:
            if self._open == 1:
                self._bar.set_description_str(what, refresh=False)
            yield
        finally:
            self._open -= 1
            if self._open == 0:
                spent = time.monotonic() - began
                self._beside += spent
                self._bar.set_description_str("", refresh=False)
                self._later(spent)

    def _later(self, seconds: float) -> None:
        """tqdm's own clock begins later by as much."""
        if self._moving:
            self._bar.start_t += seconds
            self._bar.last_print_t += seconds

    @contextlib.contextmanager
    def counting(self, what: str, total: int, unit: str = "images", *, announced: bool = True) -> Iterator[Count]:
        """Shows how many of ``total`` are done: ``what 320 of 2,000``; the function is told of each.

        ``announced``: say the total at once; else nothing is said of what is done within a minute.
        """
        done, last = 0, time.monotonic()

        def count(more: int) -> None:
            nonlocal done, last
            done += more
            if (now := time.monotonic()) - last >= (OFTEN if self._moving else MINUTE) and self._shown:
                last = now
                self._note(f"{what} {done:,} of {total:,}")

        if self._shown and announced:
            self._note(f"{what} {total:,} {unit}")
        yield count

    def close(self) -> None:
        self._bar.close()

    def _note(self, text: str) -> None:
        """What is done beside steps."""
        if self._moving:
            self._bar.set_description_str(text)
        else:
            self._say(text)

    def _clock(self) -> str:
        """``elapsed<remaining`` of the steps."""
        return f"{tqdm.format_interval(self.training_seconds)}<{self._left()}"

    def _left(self) -> str:
        """What remains; after few steps it is marked as the estimate it is."""
        measured = self._done - self._start - 1
        if measured <= 0:
            return "?"
        if measured < ENOUGH and self._done < self._total:
            return f"about {rough(self._seconds_left())} by {measured} step{'s' if measured > 1 else ''}"
        return tqdm.format_interval(self._seconds_left())

    def _seconds_left(self) -> float:
        return self._a_step() * (self._total - self._done)

    def _a_step(self) -> float:
        """Seconds, the mean of those that were measured: all but the first."""
        return (self.training_seconds - (self._first or 0.0)) / (self._done - self._start - 1)

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        print(text, file=stderr(), flush=True)


def rough(seconds: float) -> str:
    """A time in one unit, of about two digits: ``40 s``, ``12 min``, ``25 h``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= (1 if unit == "min" else 2) * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
