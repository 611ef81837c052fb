"""``dinov3.train``: the command in Python, also in a notebook. The same code runs; errors are raised, not printed."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dinov3.config.arguments import COMMAND_LINE
from dinov3.config.errors import ConfigError
from dinov3.config.recipes import config_file
from dinov3.data.sources import parse_dataset
from dinov3.engine.command import check_arguments
from dinov3.pictures.run_in_python import Run
from dinov3.runs.signals import STOPPING, StopRequest, handlers_restored
from dinov3.system.errors import EXIT_DONE, EXIT_PREEMPTED, Foreseeable
from dinov3.system.paths import expanded
from dinov3.train.command import prepared
from dinov3.train.folder import is_data


class TrainingEnded(Foreseeable):
    """A run that ended before its last step, by itself; ``run`` is what there is of it."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"{run.path}: the run ended with {run.code}, see {run.path / 'run.log'}")
        self.run, self.code = run, run.code


def train(
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    resume: bool = True,
    resume_from: str | Path | None = None,
    **overrides: Any,
) -> Run:
    """Train a backbone without labels, as ``dinov3 train`` does; continues what is in ``out``.

    ``data``: a folder of images, or any text for ``train.dataset_path``; None where the recipe says it. ``out``: the run
    folder; None: one below ``runs``. ``recipe``: a YAML or the name of a shipped one; None: chosen for the images and
    this machine. ``overrides``: keys of the YAML, as blocks, ``optim={"epochs": 3}``, or ``**{"optim.epochs": 3}``.

    Ctrl-C (a notebook's stop button) saves after the step and returns a run that is ``stopped``; the same call goes on.
    Raises ConfigError and DataError before anything is written, OSError, and TrainingEnded for a run that gave up.
    """
    args = argparse.Namespace(
        config_file=None if recipe is None else config_file(str(recipe)),
        output_dir=None if out is None else expanded(out),
        resume_from=None if resume_from is None else expanded(resume_from),
        no_resume=not resume,
        print_config=False,
        multi_distillation=False,
        opts=[*([] if data is None else [_data_word(str(data), recipe)]), *override_words(overrides)],
    )
    from dinov3.distributed.context import teardown

    with _said_of_the_call(), _guest():
        check_arguments(args)
        try:
            code, path = _run(args)
        finally:
            teardown()
    run = Run(path, code)
    if code not in (EXIT_DONE, EXIT_PREEMPTED):
        raise TrainingEnded(run)
    return run


def _run(args: argparse.Namespace) -> tuple[int, Path]:
    run = prepared(args)
    # Ctrl-C is noted from here on; signals reach the main thread only, and nobody stops a run of another one by them
    listen = STOPPING if threading.current_thread() is threading.main_thread() else ()
    return run.train(StopRequest(listen, end=_interrupt)), run.out


def _data_word(text: str, recipe: object) -> str:
    """What ``take_folder`` takes for images; with a recipe it is simply its data set. DataError for neither."""
    if recipe is not None or text.startswith("["):
        return f"train.dataset_path={text}"
    if not is_data(text):
        parse_dataset(text)  # says what is wrong with it
    return text


def _interrupt(number: int) -> None:
    """A second Ctrl-C ends the run at once, not the process: that is a notebook's, with all its variables."""
    raise KeyboardInterrupt


def override_words(overrides: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``{"optim": {"lr": 1e-4}}`` or ``{"optim.lr": 1e-4}`` as words of a command line."""
    words: list[str] = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            words += override_words(value, f"{prefix}{name}.")
        else:
            text = str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
            words.append(f"{prefix}{name}={text}")
    return words


@contextlib.contextmanager
def _said_of_the_call() -> Iterator[None]:
    """What is wrong with a command line is wrong with an argument here."""
    try:
        yield
    except ConfigError as error:
        if error.source != COMMAND_LINE:
            raise
        key = error.key.removeprefix("--").replace("-", "_") if error.key.startswith("--") else error.key
        problem = error.problem.replace("--no-resume", "resume=False")
        raise ConfigError("dinov3.train", key, problem) from None


@contextlib.contextmanager
def _guest() -> Iterator[None]:
    """The process belongs to somebody else: signal handlers come back, and the caller's script is not run again.

    Loader processes would import the caller's ``__main__`` first, and so call ``train`` again from a script without
    ``if __name__ == "__main__"``. They need nothing of it.
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.get(name) for name in ("__file__", "__spec__")}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        if threading.current_thread() is threading.main_thread():
            with handlers_restored():
                yield
        else:
            yield
    finally:
        main.__dict__.update({name: value for name, value in hidden.items() if value is not None})
