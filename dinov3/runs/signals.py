"""Turn a request to stop into a flag that the loop reads between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from types import FrameType

# Seconds. torchrun hands on the SIGTERM that SLURM sends to every process anyway, so one request may arrive twice.
SAME_REQUEST = 5.0
ANSWER = b"\nstopping after this step, saving; again to end now\n"
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGCONT)


class Asked(IntEnum):
    """Who asks a run to stop. The greatest of all processes is what the run was asked."""

    NOBODY = 0
    A_PERSON = 1  # SIGINT, SIGUSR1, SIGHUP
    SIGTERM = 2  # by itself: a person, or a scheduler
    THE_SCHEDULER = 3  # SIGTERM and SIGCONT: so SLURM ends a step, and `scancel --signal=TERM` does not
    ANOTHER_TURN = 4  # SIGUSR2
    ANOTHER_TURN_THEN_SIGTERM = 5  # the time limit came, or a person changed their mind


class StopRequest:
    """SIGTERM, SIGINT, SIGUSR1 and SIGHUP ask for a save and a clean exit, SIGUSR2 for a save and another turn in the queue.

    SIGUSR2 is what SLURM sends before the time limit, and SIGTERM may follow at the limit while the save goes on. A
    second SIGTERM, and SIGINT after any request, end the process at once. Handlers of a launcher are replaced; a SIGHUP
    that is ignored, as under nohup, stays so. ``listen``: the signals that are noted; ``then`` is called after each that
    asks for something; ``end``: what a signal that is to end everything at once does.
    """

    def __init__(
        self,
        listen: Iterable[signal.Signals] = STOPPING,
        then: Callable[[StopRequest], None] | None = None,
        end: Callable[[int], None] | None = None,
    ) -> None:
        self.signal_name: str | None = None  # of the first
        self._then, self._end = then, end or end_process
        self._first: dict[int, float] = {}  # signal -> when it came first
        self._last: dict[int, float] = {}
        self._at_end: list[Callable[[], None]] = []
        for number in listen:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    @property
    def requeue(self) -> bool:
        """Whether SIGUSR2 was among them."""
        return signal.SIGUSR2 in self._first

    @property
    def since(self) -> float:
        """When the first came, as ``time.monotonic`` counts; now when none has, for then another process was asked."""
        return min((at for number, at in self._first.items() if number != signal.SIGCONT), default=time.monotonic())

    @property
    def asked(self) -> Asked:
        """What all signals so far come to."""
        if self.signal_name is None:
            return Asked.NOBODY
        term = self._last.get(signal.SIGTERM)
        if self.requeue:
            return Asked.ANOTHER_TURN if term is None else Asked.ANOTHER_TURN_THEN_SIGTERM
        if term is None:
            return Asked.A_PERSON
        resumed = self._last.get(signal.SIGCONT)
        by_slurm = resumed is not None and abs(resumed - term) < SAME_REQUEST
        return Asked.THE_SCHEDULER if by_slurm else Asked.SIGTERM

    def at_end(self, call: Callable[[], None]) -> None:
        """What a signal that ends everything at once does first. It must not wait for anything; its OSError is dropped."""
        self._at_end.append(call)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self._last[number] = now
        again = now - self._first.setdefault(number, now) > SAME_REQUEST
        if number == signal.SIGCONT:  # it asks for nothing, and also comes when a suspended job goes on
            return
        asked = self.signal_name is not None
        self.signal_name = self.signal_name or signal.Signals(number).name
        if number == signal.SIGINT and not asked and os.environ.get("RANK", "0") == "0":  # torch may not be loaded yet
            with contextlib.suppress(OSError):  # not print: the signal may come in the middle of one
                os.write(2, ANSWER)
        if (number == signal.SIGINT and asked) or (number == signal.SIGTERM and again):
            for call in self._at_end:
                with contextlib.suppress(OSError):  # the process ends, and nobody is left to tell
                    call()
            self._end(number)
        elif self._then is not None:
            self._then(self)


def end_process(number: int) -> None:
    """As if nobody had listened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def handlers_restored() -> Iterator[None]:
    """What the caller does about signals is afterwards what it was before."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set by Python, and cannot be set again
                signal.signal(number, handler)
