"""``dinov3 runs DIR``: every run below a folder in one table, live with ``--watch``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.config.shown import shown
from dinov3.overview.status import RunStatus, find_runs, since, status_of
from dinov3.system.columns import aligned
from dinov3.system.errors import EXIT_DONE
from dinov3.system.paths import expanded

HEAD = ("run", "model", "state", "step", "loss", "k-NN %", "images/s", "written")
TOP = "\x1b[H\x1b[J"  # a terminal begins again at its first line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 runs``."""
    parser.description = "All runs below a folder: model, state, step, loss, k-NN accuracy, speed, age of the figures. "
    parser.description += "(eval): measured by `dinov3 eval knn`, where training measured none."
    parser.add_argument("folder", type=expanded, nargs="?", default=Path("runs"), help="looked through (default: runs)")
    parser.add_argument("--watch", action="store_true", help="show it anew until Ctrl-C")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two with --watch (default 5)")


def execute(args: argparse.Namespace) -> int:
    """Print the table. Raises ConfigError when the folder is missing or holds no run."""
    if not args.every > 0:
        raise ConfigError("command line", "--every", f"{args.every:g}: must be above 0")
    if args.watch:
        return watch(args.folder, args.every)
    print(table(args.folder))
    return EXIT_DONE


def watch(folder: Path, every: float, pause: Callable[[float], None] = time.sleep) -> int:
    """The table again and again; on what is no terminal one below the other. Ctrl-C ends it with 0."""
    try:
        while True:
            text = table(folder)
            print(f"{TOP if sys.stdout.isatty() else ''}{text}", flush=True)
            pause(every)
    except KeyboardInterrupt:
        return EXIT_DONE


def table(folder: Path) -> str:
    """One line a run."""
    if not folder.is_dir():
        raise ConfigError("command line", str(folder), "is not a folder: give the one that holds your runs")
    found = [status_of(path) for path in find_runs(folder)]
    if not found:
        raise ConfigError("command line", str(folder), "holds no run: give the folder that --output-dir lies in")
    return aligned([HEAD, *(cells(status, folder) for status in found)])


def _knn(status: RunStatus) -> str:
    """What training measured; else what ``dinov3 eval`` did, marked: it is of other images, perhaps of other weights."""
    if status.knn is not None:
        return f"{100 * status.knn:.1f}"
    return "" if status.knn_by_eval is None else f"{100 * status.knn_by_eval:.1f} (eval)"


def cells(status: RunStatus, folder: Path) -> tuple[str, ...]:
    """What stands in the columns of HEAD."""
    name = status.path.name if status.path == folder else str(status.path.relative_to(folder))
    return (
        shown(name),
        shown(status.model),
        status.state,
        f"{status.step:,}" + (f" of {status.steps:,}" if status.steps is not None else ""),
        "" if status.loss is None else f"{status.loss:.4f}",
        _knn(status),
        "" if status.speed is None else f"{status.speed:,.1f}",
        f"{since(status.written)} ago",
    )
