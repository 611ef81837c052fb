"""``run.log``: what a run has said; and its warnings on the terminal, above the progress line."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from dinov3.distributed import siblings
from dinov3.distributed.context import is_main, rank


class Terminal(logging.Handler):
    """Writes to stderr without tearing the progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def run_log(out: Path) -> Iterator[None]:
    """Everything from INFO on goes to ``RUN/run.log`` (main process), warnings of every process to the terminal."""
    terminal = Terminal(logging.WARNING)
    who = [out.name] if siblings.current() else []  # several runs write to this terminal
    who += [] if is_main() else [f"process {rank()}"]
    terminal.setFormatter(logging.Formatter(f"{', '.join(who)}: %(message)s" if who else "%(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if is_main():
        file = logging.FileHandler(out / "run.log")
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
