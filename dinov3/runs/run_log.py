"""``run.log``: what a run has said; and its warnings on the terminal, above the progress line."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from dinov3.distributed.context import is_main, rank
from dinov3.distributed.peers import Peers
from dinov3.runs.folder import RunFolder
from dinov3.system.console import stderr
from dinov3.system.files import open_to_append


class Terminal(logging.Handler):
    """Writes to stderr without tearing the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=stderr())


class LogFile(logging.StreamHandler[TextIO]):
    """``run.log``, through no link. On a full disk its lines are lost, with one warning; the run goes on."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(os.fdopen(open_to_append(run.log), "a", encoding="utf-8", errors="backslashreplace"))
        self._full = False

    def handleError(self, record: logging.LogRecord) -> None:  # the name is logging's
        if not self._full:
            self._full = True
            tqdm.write(f"run.log cannot be written to: {sys.exc_info()[1]}", file=stderr())

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # what a full disk did not take is in the buffer still
            self.stream.close()
        super().close()


@contextlib.contextmanager
def run_log(run: RunFolder, peers: Peers) -> Iterator[None]:
    """Everything from INFO on goes to ``RUN/run.log`` (main process), warnings of every process to the terminal."""
    terminal = Terminal(logging.WARNING)
    who = [run.path.name] if peers.several else []  # several runs write to this terminal
    who += [] if is_main() else [f"process {rank()}"]
    terminal.setFormatter(logging.Formatter(f"{', '.join(who)}: %(message)s" if who else "%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if is_main():
        file = LogFile(run)
        file.setLevel(logging.INFO)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    root = logging.getLogger()
    logging.getLogger("dinov3").setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
