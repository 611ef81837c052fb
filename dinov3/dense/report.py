"""What the evaluations have in common: their arguments, what was left out, the table and the JSON line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinov3.data.errors import TooManyBadSamples
from dinov3.features.cache import weights_digest
from dinov3.features.command import add_extractor_arguments
from dinov3.features.extract import FeatureExtractor
from dinov3.features.kept import cache_folder
from dinov3.runs.output import check_output_file
from dinov3.runs.scores import keep_scores
from dinov3.system.paths import expanded
from dinov3.system.rows import append_row

SHOWN = 5


def add_common_arguments(
    parser: argparse.ArgumentParser, protocols: Iterable[str], data: str, *, size: str = "train", caches: bool = False
) -> None:
    """Arguments of each dense evaluation; ``data`` says what --data may be, ``size`` is the default of --size.

    ``caches``: it keeps feature sets in the folder ``--cache``."""
    names = list(protocols)
    add_extractor_arguments(parser, size=size)
    parser.add_argument("--data", required=True, help=data)
    parser.add_argument("--protocol", default=names[0], choices=names, help=f"settings by name (default {names[0]})")
    parser.add_argument("--out", type=expanded, help="file the result is appended to, as one JSON line")
    parser.add_argument("--pictures", type=expanded, help="PNG: prediction beside truth")
    if caches:
        parser.add_argument(
            "--cache", type=expanded, help="folder of feature sets (default: in the user's cache folder)"
        )
    parser.add_argument(
        "--max-bad-frac", type=float, default=0.01, help="share of unusable images that ends the command (default 0.01)"
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes of the protocol, for example steps=2000")


def check_places(args: argparse.Namespace) -> None:
    """OSError when an output cannot be written, before anything is computed."""
    for option in ("out", "pictures"):
        if (path := getattr(args, option)) is not None:
            check_output_file(path, f"--{option}")


def cache_of(args: argparse.Namespace) -> Path:
    """Where feature sets are kept."""
    return cache_folder(args.cache)


@dataclass
class LeftOut:
    """Images, frames or pairs that could not be used, each with its reason."""

    of: int = 0  # how many there were in all
    rows: list[dict[str, str]] = field(default_factory=list)
    limit: str = "--max-bad-frac"  # what ``check`` calls its limit

    def add(self, name: str, reason: str) -> None:
        """One more."""
        self.rows.append({"name": name, "reason": reason})

    def check(self, most: float) -> None:
        """TooManyBadSamples when more than the share ``most`` was left out."""
        if len(self.rows) > most * self.of:
            first = self.rows[0]
            raise TooManyBadSamples(
                f"{len(self.rows)} of {self.of} cannot be used, the first {first['name']}: {first['reason']}; "
                f"mend the data or raise {self.limit} ({most:g})"
            )

    def lines(self) -> list[str]:
        """For people."""
        more = len(self.rows) - SHOWN
        lines = [f"  left out: {row['name']}: {row['reason']}" for row in self.rows[:SHOWN]]
        return [*lines, f"  … and {more} more"] if more > 0 else lines


def finish(
    args: argparse.Namespace,
    task: str,
    protocol: Any,
    extractor: FeatureExtractor,
    facts: Mapping[str, Any],
    scores: Sequence[Mapping[str, Any]],
    left_out: LeftOut,
) -> None:
    """Print the table; append the JSON line to --out, and to the scores of the run that the weights are of."""
    print(f"{task}, {args.protocol}, features of {args.weights} on {args.data}")
    print("\n".join([*table(scores), *left_out.lines()]))
    row = {
        "task": task,
        "protocol": args.protocol,
        "settings": asdict(protocol),
        "weights": str(args.weights),
        "weights_sha256": weights_digest(extractor.backbone),
        "preprocess": extractor.preprocess.describe(),
        "compute_dtype": extractor.dtype,
        "data": args.data,
        **facts,
        "scores": list(scores),
        "left_out": left_out.rows,
    }
    plain = _plain(row)
    keep_scores(args.weights, plain)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        append_row(args.out.resolve(), plain)  # a link of the user's own is followed


def _plain(value: Any) -> Any:
    """``value`` with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def table(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of numbers and words, one below the other; lists and tables of a row are in the JSON line only."""
    keys = list(
        dict.fromkeys(key for row in scores for key, value in row.items() if not isinstance(value, dict | list))
    )
    cells = [keys, *[[_cell(row.get(key)) for key in keys] for row in scores]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
