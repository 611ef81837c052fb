"""``dinov3.evaluate``: the command in Python; its result is returned, errors are raised."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinov3.eval import command
from dinov3.features.errors import FeatureError
from dinov3.system.json_file import read_object
from dinov3.system.paths import expanded
from dinov3.system.rows import read_rows


def evaluate(
    weights: str | Path,
    data: str | Path,
    test: str | Path | None = None,
    *,
    task: str = "knn",
    out: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """How good frozen features are, as ``dinov3 eval TASK`` measures and prints it; shares are between 0 and 1.

    ``data``: labelled images to learn from, ``test``: those to be scored (None: every fifth image of a class of
    ``data``); for segmentation, depth, matching and tracking ``data`` is ``--data``. ``task``: one of ``dinov3 eval
    --help``. ``options``: those of the command, ``k=[10, 20]``, ``pool="mean"``, ``max_side=512``; ``words``: a list of
    its ``key=value``. ``out``: ``--out``, a file for the result. Raises FeatureError, DataError, WeightsError, ValueError.
    """
    labelled = task in command.TASKS
    parser = _Parser(prog=f"dinov3.evaluate(task={task!r})")
    command.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json" if out is None else expanded(out)
        words = [task, "--weights", str(weights), "--train" if labelled else "--data", str(data)]
        words += [] if test is None else ["--test", str(test)]
        args = parser.parse_args([*words, *option_words(options), "--out", str(result)])
        command.execute(args)
        # the tasks on labelled images write one object, the dense ones a line
        found: dict[str, Any] = read_object(result) if labelled else read_rows(result)[-1]
    return found


def option_words(options: dict[str, Any]) -> list[str]:
    """``{"max_side": 512, "compile": True, "words": ["low=0.5"]}`` as words of a command line."""
    words = [str(word) for word in options.get("words", ())]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "words" or value is None or value is False:
            continue
        values = (
            [] if value is True else value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        )
        words += [flag, *map(str, values)]
    return words


class _Parser(argparse.ArgumentParser):
    """Raises where a command would end the process."""

    def error(self, message: str) -> Any:
        raise FeatureError(f"{self.prog}: {message}")
