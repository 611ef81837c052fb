"""The end of a process."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
from typing import NoReturn


def leave_quickly() -> None:
    """Spare Python the search for rubbish in everything that was imported, at the end of this process.

    It searches several times while it takes the modules apart, which holds up the shell for a second and frees nothing
    that the end of the process does not. What is to be done at the end (``atexit``, threads, files) is done as ever.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def leave_at_once(code: int) -> NoReturn:
    """End this process and the workers it started, from any thread: nothing more is written."""
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)
