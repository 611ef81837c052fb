"""``multiprocessing``'s helpers: the forkserver, where the folder of temporary files has a long name, too; the tracker."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import sys
import tempfile
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

LONGEST = 107  # bytes of a UNIX socket's address on Linux (sun_path, less its closing zero)
FOLDER, LISTENER = "/pymp-12345678", "/listener-12345678"  # what multiprocessing adds, in length
OPEN_FOLDERS = Path("/proc/self/fd")
QUIET = "ignore:resource_tracker:UserWarning"  # as after python -W


def context(method: str, *preload: str) -> BaseContext:
    """``multiprocessing.get_context(method)``; a forkserver imports the modules ``preload`` once, for all it starts."""
    shorten_addresses()
    found: BaseContext = multiprocessing.get_context(method)
    found.set_forkserver_preload([*preload])
    return found


def shorten_addresses() -> None:
    """Let sockets be addressed through an open folder where ``TMPDIR``'s name leaves no room for theirs: jobs have such folders.

    multiprocessing would end with "AF_UNIX path too long". The address is for this process alone, as the forkserver is.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined] # where multiprocessing.util.get_temp_dir looks
    folder = str(config.get("tempdir") or tempfile.gettempdir() + FOLDER)
    if len(os.fsencode(folder + LISTENER)) <= LONGEST or not OPEN_FOLDERS.is_dir():
        return
    made = tempfile.mkdtemp(prefix="dinov3-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    config["tempdir"] = str(OPEN_FOLDERS / str(os.open(made, os.O_RDONLY | os.O_DIRECTORY)))


def start_tracker() -> None:
    """Start the process that removes semaphores and shared memory when this one is killed, without a word about it: who
    ends a run with a second Ctrl-C would read of leaks, and there are none."""
    sys.warnoptions.append(QUIET)  # what is started takes them over
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(QUIET)
