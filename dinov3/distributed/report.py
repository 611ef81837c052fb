"""A foreseen error as one line and an exit code, said once however many processes raise it."""

from __future__ import annotations

import os
import sys
import time

from dinov3.system.errors import EXIT_HANG, EXIT_IO, Foreseeable

LAST_TO_START = 10  # seconds between the first and the last process of a machine to read the config, at most


def report(error: BaseException) -> int:
    """Print one line on stderr and return what the command ends with. Raises ``error`` again when nobody foresaw it.

    What every process raises is said by the main one; what happens before they know of one another, such as a wrong
    config, by the first of each machine.
    """
    code, text = _judged(error)
    if not _said_elsewhere(error):
        print(f"error: {text}", file=sys.stderr)
    elif "torch" not in sys.modules:
        time.sleep(LAST_TO_START)  # torchrun ends all as soon as one has ended; this one must not be the first
    return code


def _judged(error: BaseException) -> tuple[int, str]:
    """Exit code and line."""
    if isinstance(error, Foreseeable):
        return error.code, str(error)
    if isinstance(error, OSError):
        return EXIT_IO, str(error)
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from dinov3.distributed.context import is_loss_of_a_peer

        if is_loss_of_a_peer(error):
            return EXIT_HANG, "another process of this run has ended: see its message"
    raise error


def _said_elsewhere(error: BaseException) -> bool:
    """Whether another process prints this error."""
    if "torch" not in sys.modules:  # too early for a group
        return os.environ.get("LOCAL_RANK", "0") != "0"
    from dinov3.distributed.agreement import is_said_by_another_run, is_shared
    from dinov3.distributed.context import is_main

    return is_said_by_another_run(error) or (is_shared(error) and not is_main())
