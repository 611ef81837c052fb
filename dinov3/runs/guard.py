"""A process beside another one, which it ends when that one's interpreter is stuck. A program of its own: it imports nothing of ours.

    python guard.py SECONDS    # with the signals that ask a job to stop blocked: it ends with its parent, and no sooner

A C function that never lets go of Python's lock (HDF5 on a file system that hangs) leaves no thread of the process to notice.
This one is told that all is well through its standard input, and ends its parent with SIGABRT (for which faulthandler
prints all stacks) after ``SECONDS`` without a word. A timer inside the process (``faulthandler.dump_traceback_later``)
would also end one that a scheduler suspended, when it goes on.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys

TICK = 1.0


def stands_still(process: int) -> bool:
    """Whether a signal has suspended ``process``; False where the system does not tell."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] in (b"T", b"t")


def main(limit: float) -> None:
    parent, quiet = os.getppid(), 0.0
    while os.getppid() == parent:
        if select.select([0], [], [], TICK)[0]:
            if not os.read(0, 4096):  # the parent has closed it
                return
            quiet = 0.0
        elif not stands_still(parent):
            quiet += TICK  # what was waited for, not what a clock says: this process may have been suspended, too
        if quiet >= limit:
            if sys.platform == "linux":  # stacks say enough: a core may be tens of GB
                resource.prlimit(parent, resource.RLIMIT_CORE, (0, 0))
            os.kill(parent, signal.SIGABRT)
            return


if __name__ == "__main__":
    main(float(sys.argv[1]))
