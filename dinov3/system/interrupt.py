"""Ctrl-C ends a command with one word, also while its modules are imported.

It imports next to nothing, and an entry point imports everything else inside ``interruptible``.
"""

from __future__ import annotations

import os
import sys

from dinov3.system.errors import EXIT_INTERRUPTED

TYPE_CHECKING = False  # as in dinov3/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

LOADS_A_LIBRARY = "create_module"  # Python's function that runs the start of a compiled module
WORD = "interrupted\n"


def interruptible(command: Callable[[], int]) -> int:
    """The exit code of ``command``; 130 and the word "interrupted" where Ctrl-C ends it."""
    ours = False
    try:
        import signal
        import threading

        if threading.current_thread() is threading.main_thread():  # no other may say what a signal does
            ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, _interrupt)
        return command()
    except KeyboardInterrupt:
        return _say()
    except ImportError as error:  # what a module makes of Ctrl-C in the middle of its import
        if not _is_of_ctrl_c(error):
            raise
        return _say()
    finally:
        if ours and signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """KeyboardInterrupt; the end at once where torch's start in C would swallow it, and go on without numpy."""
    while frame is not None:
        if frame.f_code.co_name == LOADS_A_LIBRARY:
            if _speaks():
                os.write(2, WORD.encode())
            os._exit(EXIT_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _say() -> int:
    if _speaks():
        print(WORD, end="", file=sys.stderr)
    # Python notes an interrupt that leaves code made of text (a dataclass is), and would end by the signal at last,
    # whatever caught it. The next code made of text takes the note back.
    exec("")
    return EXIT_INTERRUPTED


def _speaks() -> bool:
    """One of the processes of a run says it."""
    return os.environ.get("RANK", "0") == "0"


def _is_of_ctrl_c(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
