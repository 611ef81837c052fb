"""Two programs that measure a step, run in turns, so that what else the machine does meets both alike."""

from __future__ import annotations

import json
import shlex
import subprocess
from statistics import median
from typing import Any


class OtherFailed(Exception):
    """A program ended with an error, or printed no figure."""


def in_turns(ours: list[str], other: str, rounds: int) -> dict[str, Any]:
    """Medians of ``rounds`` turns of each, ours first, and their ratio (above 1: ours is faster).

    Raises OtherFailed, naming the program and the end of what it said.
    """
    commands = {"ours": ours, "other": shlex.split(other)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(figures_of(command))
    seconds = {name: [row["seconds_per_step"] for row in rows] for name, rows in found.items()}
    medians = {name: median(values) for name, values in seconds.items()}
    peaks = {
        name: median(values)
        for name, rows in found.items()
        if (values := [row["peak_gib"] for row in rows if isinstance(row.get("peak_gib"), int | float)])
    }
    result: dict[str, Any] = {
        "benchmark": "steps in turns",
        "rounds": rounds,
        "seconds_per_step": seconds,
        "median_seconds": medians,
        "ratio_of_medians": round(medians["other"] / medians["ours"], 4),
        "peak_gib": peaks,
    }
    if len(peaks) == len(commands):
        result["peak_share_of_other"] = round(peaks["ours"] / peaks["other"], 4)
    return result


def figures_of(command: list[str]) -> dict[str, Any]:
    """The last JSON line with "seconds_per_step" that ``command`` prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise OtherFailed(f"{shlex.join(command)}: {error}") from error
    for line in reversed(done.stdout.splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("seconds_per_step"), int | float) and not done.returncode:
            return row
    said = (done.stderr.strip() or done.stdout.strip())[-500:]
    raise OtherFailed(
        f'{shlex.join(command)}: exit code {done.returncode}, no JSON line with "seconds_per_step": {said}'
    )
