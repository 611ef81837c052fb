"""``dinov3 compare RUN RUN …``: curves over one another, evaluations, what differs in the configs; one HTML page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinov3.config.changes import flatten
from dinov3.config.errors import ConfigError
from dinov3.config.redaction import redacted
from dinov3.features.errors import FeatureError, refuse_no_folder
from dinov3.overview.reference import find_reference, read_reference, shipped_references, status_of_reference
from dinov3.overview.status import RunStatus, status_of
from dinov3.pictures.charts.inline import Charts
from dinov3.pictures.curves import Panel, ending_in, line_of
from dinov3.pictures.figures import figure, plans, shown
from dinov3.pictures.page import page, table_of
from dinov3.runs.folder import RunFolder
from dinov3.runs.output import check_output_file
from dinov3.runs.recorded import config_in_force
from dinov3.runs.scores import scores_of
from dinov3.system.columns import aligned
from dinov3.system.errors import EXIT_DONE
from dinov3.system.files import write_whole
from dinov3.system.html import Html, markup
from dinov3.system.paths import expanded
from dinov3.system.rows import Row, is_number, read_rows

OWN = {"train.output_dir"}  # every run has its own: no difference
HIGHER = ("knn_accuracy", "linear_accuracy", "rankme")  # what the table ends with; a difference is shown


@dataclass(frozen=True)
class Compared:
    """One of the runs."""

    name: str
    status: RunStatus
    rows: list[Row]
    evaluations: list[Row]
    config: Mapping[str, Any]  # flat: key -> value, secrets hidden
    measured: Mapping[tuple[str, str, str], tuple[str, str]] = field(default_factory=dict)  # by `dinov3 eval`
    is_mean: bool = False  # reference curves; their config has the keys of a recipe only
    reduced: str = ""  # how such curves were made smaller than the recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 compare``."""
    parser.description = "Runs beside each other on one HTML page: curves, evaluations, differences of the configs."
    parser.add_argument(
        "runs", type=expanded, nargs="+", metavar="RUN", help="run folders: two or more, or one with --reference"
    )
    parser.add_argument(
        "--reference",
        type=expanded,
        metavar="RUN",
        help="the one that others are compared with (default: the first): a run folder, a file of reference curves, or "
        f"a recipe that is shipped with them ({', '.join(shipped_references())})",
    )
    parser.add_argument(
        "--out", type=expanded, default=Path("compare.html"), help="file to write (default: compare.html)"
    )


def execute(args: argparse.Namespace) -> int:
    """Write the page, print the table of evaluations. Raises ConfigError and FeatureError."""
    curves = None if args.reference is None else find_reference(args.reference)
    first = [args.reference] if args.reference is not None and curves is None else []
    paths = list(dict.fromkeys([*first, *args.runs]))
    if len(paths) < (2 if curves is None else 1):
        raise ConfigError("command line", "RUN", "is one run: give two or more, or `dinov3 report RUN` for one")
    check_output_file(args.out, "--out")
    means = [] if curves is None else [reference_curves(curves)]
    runs = means + [read_run(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, compare_page(runs))
    print(aligned([HEAD, *scores(runs)]))
    print(*(f"{line}\n" for line in how_reduced(runs)), sep="", end="")
    print(args.out)
    return EXIT_DONE


def how_reduced(runs: Sequence[Compared]) -> list[str]:
    """What is to be known of reference curves of a recipe that was made smaller."""
    return [f"{run.name}: {run.reduced}. Compare shapes: levels differ at other sizes." for run in runs if run.reduced]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, more of it where two are the same."""
    for parts in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        names = ["/".join(path.resolve().parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("command line", "RUN", "names one folder twice")


def read_run(path: Path, name: str) -> Compared:
    """FeatureError for a folder in which nothing was trained."""
    run = RunFolder(path)
    rows = read_rows(run.metrics)
    if not rows:
        refuse_no_folder(path)
        raise FeatureError(f"{path}: no metrics.jsonl with a line in it: not the folder of a run that trained")
    keys = flatten(redacted("", config_in_force(run).now or {}))
    return Compared(name, status_of(path), rows, read_rows(run.evaluation), keys, scores_of(run))


def reference_curves(path: Path) -> Compared:
    """FeatureError for a file that holds none."""
    found = read_reference(path)
    small = (found.get("made") or {}).get("reduced")
    name = f"{found['recipe']}{', reduced' if small else ''}, mean of {len(found['seeds'])} seeds"
    return Compared(
        name,
        status_of_reference(found, path),
        found["rows"],
        found["evaluations"],
        found["config"],
        is_mean=True,
        reduced=str(small or ""),
    )


def compare_page(runs: Sequence[Compared]) -> str:
    """The page; the first run is the reference."""
    charts = Charts()
    title = " · ".join(run.name for run in runs)
    parts = [
        markup("<h1>{}</h1>", title),
        markup('<p class="muted">Differences are to the first, {}.</p>', runs[0].name),
        *(markup('<p class="muted">{}</p>', line) for line in how_reduced(runs)),
        table_of(HEAD, scores(runs), '<td style="white-space:nowrap">{}</td>'),
        markup("<h2>Curves</h2>{}", charts.add(panels_over(runs))),
        _measured(runs),
        markup("<h2>Config, where they differ</h2>{}", _differences(runs)),
    ]
    return page(title, parts, charts)


def panels_over(runs: Sequence[Compared]) -> list[Panel]:
    """A panel a figure, a line a run; figures that no run has are left out."""
    panels, names = [], [run.name for run in runs]
    terms, norms = (ending_in(ending, *(run.rows for run in runs)) for ending in ("_loss", "_grad_norm"))
    for plan in plans(terms, norms):
        for key in plan.keys:
            over = "step" if plan.evaluations else "iteration"
            lines = {run.name: line_of(run.evaluations if plan.evaluations else run.rows, over, key) for run in runs}
            lines = {name: line for name, line in lines.items() if line[0]}
            if lines:
                about = figure(key)
                title = plan.title if len(plan.keys) == 1 else f"{plan.title}: {about.label}"
                panels.append(Panel(title, about.meaning or plan.note, lines, plan.evaluations, names))
    return panels


HEAD = ("run", "state", "steps", "loss", *(figure(key).label for key in HIGHER), "images/s")


def scores(runs: Sequence[Compared]) -> list[list[str]]:
    """A row a run: loss, what was measured first and last, and how far the last is from the reference's."""
    return [_score(run, runs[0]) for run in runs]


def _score(run: Compared, reference: Compared) -> list[str]:
    speeds = sorted(row["images_per_second"] for row in run.rows if is_number(row.get("images_per_second")))
    status = run.status
    return [
        run.name,
        status.state,
        f"{status.step:,}" + (f" of {status.steps:,}" if status.steps is not None else ""),
        "not finite" if status.loss is None else f"{status.loss:.4f}",
        *(_first_to_last(key, run, None if run is reference else reference) for key in HIGHER),
        f"{speeds[len(speeds) // 2]:,.1f}" if speeds else "",
    ]


def _first_to_last(key: str, run: Compared, reference: Compared | None) -> str:
    values, theirs = _values(key, run), _values(key, reference) if reference is not None else []
    if not values:
        by_eval = run.status.knn_by_eval if key == "knn_accuracy" else None  # of other images: no difference is said
        return "" if by_eval is None else f"{shown(key, by_eval)} {figure(key).unit} (eval)"
    text = shown(key, values[0]) if len(values) == 1 else f"{shown(key, values[0])} → {shown(key, values[-1])}"
    unit = f" {figure(key).unit}" if figure(key).unit else ""
    apart = f" ({figure(key).scale * (values[-1] - theirs[-1]):+.4g})" if theirs else ""
    return f"{text}{unit}{apart}"


def _values(key: str, run: Compared) -> list[float]:
    return [row[key] for row in run.evaluations if is_number(row.get(key))]


def differences(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Key -> its value in each run, of keys that are not the same in all."""
    known = [run for run in runs if run.is_mean] or runs
    keys = dict.fromkeys(key for run in known for key in run.config)
    found = {key: [run.config.get(key) for run in runs] for key in keys if key not in OWN}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _measured(runs: Sequence[Compared]) -> Html:
    """What ``dinov3 eval`` measured of them, a column a run."""
    known = dict.fromkeys(key for run in runs for key in run.measured)
    body = [[*key, *(run.measured.get(key, ("", ""))[1] for run in runs)] for key in known]
    head = ("task", "on", "setting", *(run.name for run in runs))
    return Html("") if not body else markup("<h2>Measured by dinov3 eval</h2>{}", table_of(head, body))


def _differences(runs: Sequence[Compared]) -> Html:
    found = differences(runs)
    if not found:
        return markup('<p class="muted">{}</p>', "Nowhere.")
    body = [
        [markup("<code>{}</code>", key), *(json.dumps(value, ensure_ascii=False) for value in values)]
        for key, values in found.items()
    ]
    return table_of(("key", *(run.name for run in runs)), body)
