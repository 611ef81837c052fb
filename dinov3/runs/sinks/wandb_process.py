"""The child of ``WandbSink``: JSON lines on stdin to Weights & Biases; each line on stdout is a problem in words."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

Report = Callable[[str], None]


def serve(lines: Iterable[str], report: Report) -> None:
    """Log everything that comes, until the end of the lines. Raises whatever wandb raises once it has started."""
    messages = (json.loads(line) for line in lines)
    _, start = next(messages)
    try:
        import wandb
    except ImportError as error:
        report(f"{error}: `pip install wandb`; rows are only in metrics.jsonl")
        return
    run = start_run(wandb, start, report)
    for over in ("train", "evaluation", "pictures"):
        # Curves over our own step: steps that run again after a crash would be dropped by wandb's counter.
        run.define_metric(f"{over}/step")
        run.define_metric(f"{over}/*", step_metric=f"{over}/step")
    for kind, content in messages:
        if kind == "picture":
            content = {content["name"]: wandb.Image(content["path"]), "pictures/step": content["step"]}
        run.log(content)
    run.finish()


def start_run(wandb: Any, start: dict[str, Any], report: Report) -> Any:
    """The run, online if asked for and possible, else offline."""
    timeout = start.pop("init_timeout")
    # "allow": the same id is the same run again; offline runs with one id are joined by `wandb sync --append`.
    options = {**start, "resume": "allow", "settings": wandb.Settings(init_timeout=timeout)}
    if start["mode"] == "offline":
        return wandb.init(**options)
    try:
        return wandb.init(**options)
    except Exception as error:  # noqa: BLE001 - no network, no key, no quota: each version has its own
        report(f"{one_line(error)}: logging offline in {start['dir']}/wandb, send it with `wandb sync`")
        wandb.teardown()  # its service still counts the id as in use
        return wandb.init(**options | {"mode": "offline"})


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()) or type(error).__name__


def main() -> int:
    """Own stdin and stdout, so that no prompt reads and no banner writes there."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of stdin is the end
    lines, words = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        serve(lines, lambda text: print(text, file=words))
    except Exception as error:  # noqa: BLE001 - told to the run, which goes on
        print(f"{one_line(error)}; rows are only in metrics.jsonl from here", file=words)
        words.flush()
        os._exit(1)  # its exit hooks would wait for the server
    return 0


if __name__ == "__main__":
    sys.exit(main())
