"""``dinov3 report RUN``: everything a run left behind, on one HTML page that needs nothing else."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinov3.config.about.tasks import root_of, task_of
from dinov3.config.changes import flatten
from dinov3.config.dump import to_dict
from dinov3.config.redaction import redacted
from dinov3.features.errors import FeatureError, refuse_no_folder
from dinov3.pictures.charts.inline import Charts
from dinov3.pictures.curves import panels_of
from dinov3.pictures.dated import step_shown
from dinov3.pictures.figures import HEADLINES, figure, first_to_last, heading, shown
from dinov3.pictures.page import NUMBER, img, page, table_of
from dinov3.runs.alarms import judged_from
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import read_train_state
from dinov3.runs.output import check_output_file
from dinov3.runs.recorded import InForce, config_in_force, history_of
from dinov3.runs.scores import scores_of
from dinov3.runs.stage_record import StageRecord, read_stages
from dinov3.runs.standing import Standing, standing
from dinov3.runs.step_folders import CheckpointError, newest_valid, step_of
from dinov3.runs.student_folders import student_folders
from dinov3.system.files import write_whole
from dinov3.system.html import Html, joined, markup
from dinov3.system.paths import expanded
from dinov3.system.rows import is_number, read_rows

NOTHING = Html("")
SCORES_HEAD = ("task", "on", "setting", "checkpoint", "measured")
Rows = Sequence[Mapping[str, Any]]


def report(run: Path, *, refresh: int = 0) -> str:
    """The page of a run; of one with stages all of them, in their order. Raises FeatureError when nothing was trained.

    ``refresh``: seconds after which a browser loads it again.
    """
    try:
        stages = read_stages(run)
    except ValueError as error:
        raise FeatureError(str(error)) from error
    charts = Charts()
    parts = _stages(run, stages, charts) if stages else _run(RunFolder(run), charts)
    return page(run.resolve().name, parts, charts, refresh=refresh)


def _run(run: RunFolder, charts: Charts) -> list[Html]:
    """A run's parts; FeatureError when it has no metrics."""
    rows = read_rows(run.metrics)
    if not rows:
        refuse_no_folder(run.path)
        if students := student_folders(run.path):
            raise FeatureError(f"{run}: holds several students; give the folder of one, {students[0]}")
        raise FeatureError(f"{run}: no metrics.jsonl with a line in it: not the folder of a run that trained")
    evaluations = read_rows(run.evaluation)
    known = config_in_force(run)
    newest, checkpoints = _checkpoints(run.path)
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.metrics.stat().st_mtime))
    return [
        _heading(run.path),
        markup('<p class="muted">{}, written {}</p>', run.path.resolve(), written),
        _tiles(rows, evaluations, standing(run.path, rows[-1], known.now or {})),
        _alarms(read_rows(run.alarms), rows, known.now),
        markup("<h2>Curves</h2>{}", charts.add(panels_of(rows, evaluations))),
        _neighbours(run),
        _pictures(run),
        _evaluations(evaluations),
        _scores(run),
        _last_figures(rows[-1]),
        _config(run, known),
        _start(run, newest),
        _files(run, checkpoints),
    ]


def _heading(run: Path) -> Html:
    return markup("<h1>{}</h1>", run.resolve().name)


def _stages(run: Path, stages: Sequence[StageRecord], charts: Charts) -> list[Html]:
    """How far each stage is, then the parts of all that have begun. FeatureError when none has."""
    begun = [stage for stage in stages if read_rows(RunFolder(run / stage.folder).metrics)]
    if not begun:
        raise FeatureError(f"{run}: none of its stages has trained a step yet")
    table = table_of(
        ("stage", "state", "began from", "loss, first to last"), [_stage_cells(run, stage) for stage in stages]
    )
    sections = [
        part
        for stage in begun
        for part in (markup('<hr id="{}">', stage.folder), *_run(RunFolder(run / stage.folder), charts))
    ]
    return [_heading(run), markup("<h2>Stages</h2>{}", table), *sections]


def _stage_cells(run: Path, stage: StageRecord) -> list[object]:
    rows = read_rows(RunFolder(run / stage.folder).metrics)
    if not rows:
        return [stage.name, "not begun", stage.began_from or "", ""]
    done = _steps(rows[-1])
    return [
        markup('<a href="#{}">{}</a>', stage.folder, stage.name),
        f"{'finished' if stage.finished else 'at step'} {done} of {stage.steps:,}",
        stage.began_from or "",
        _first_to_last(rows),
    ]


def _steps(row: Mapping[str, Any]) -> str:
    """How many were done after this one."""
    return f"{row['iteration'] + 1:,}" if is_number(row.get("iteration")) else "?"


def _first_to_last(rows: Rows) -> str:
    losses = [row["total_loss"] for row in rows if is_number(row.get("total_loss"))]
    return f"{losses[0]:.3f} → {losses[-1]:.3f}" if losses else "not finite"


def _tiles(rows: Rows, evaluations: Rows, where: Standing) -> Html:
    last = rows[-1]
    speeds = sorted(row["images_per_second"] for row in rows if is_number(row.get("images_per_second")))
    samples = last.get("samples")
    tiles: list[tuple[str, object]] = [
        ("steps", f"{where.state}, {where.step:,}" + ("" if where.steps is None else f" of {where.steps:,}")),
        ("images seen", f"{samples:,}" if is_number(samples) else "?"),
        ("loss, first to last", _first_to_last(rows)),
    ]
    if speeds:
        tiles.append(("images/s, median", f"{speeds[len(speeds) // 2]:,.1f}"))
    for key in HEADLINES:
        if (said := first_to_last(key, evaluations, " → ")) is not None:
            tiles.append((f"{figure(key).label}, first to last", said))
    tiles.append(("steps skipped", last.get("skipped_steps", 0)))
    each = (markup('<div><b>{}</b><span class="muted">{}</span></div>', value, name) for name, value in tiles)
    return markup('<div class="tiles">{}</div>', joined(each, ""))


def _alarms(alarms: Rows, rows: Rows, config: Mapping[str, Any] | None) -> Html:
    found = joined((markup('<div class="alarm">{}</div>', row.get("text")) for row in alarms), "")
    return markup("<h2>Alarms</h2>{}", found or markup('<p class="muted">{}</p>', _no_alarm(rows[-1], config or {})))


def _no_alarm(last: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Most rules wait until a run had time to get going."""
    epochs = config.get("optim", {}).get("epochs")
    length = config.get("train", {}).get("OFFICIAL_EPOCH_LENGTH")
    begins = judged_from(int(epochs * length) if is_number(epochs) and is_number(length) else 0)
    step = last.get("iteration")
    return "None." if is_number(step) and step >= begins else f"None; a run is judged from step {begins:,} on."


def _pictures(run: RunFolder) -> Html:
    over_time = sorted(run.pictures.glob("pca-*.png")) if run.pictures.is_dir() else []
    pictures = over_time[:: max(1, len(over_time) // 6)][-7:]  # a few of many
    if run.pca.is_file() and not (pictures and pictures[-1].read_bytes() == run.pca.read_bytes()):
        pictures.append(run.pca)
    if not pictures:
        return NOTHING
    each = (markup("<p>{}</p>{}", _caption(path), img(path.name, "png", path.read_bytes())) for path in pictures)
    return markup(
        '<h2>Patch features as colours</h2><p class="muted">First three principal components; the same images every time.</p>{}',
        joined(each, ""),
    )


def _neighbours(run: RunFolder) -> Html:
    if not run.neighbours.is_file():
        return NOTHING
    made = _at(run.neighbours)
    return markup(
        '<h2>Nearest images</h2><p class="muted">A test image of each class (of many, some), then the training images nearest to it'
        "{}. Blue: of its class; orange: of another.</p>{}",
        f" {made}" if made else "",
        img(run.neighbours.name, "png", run.neighbours.read_bytes()),
    )


def _caption(path: Path) -> str:
    step = re.search(r"(\d+)\.png$", path.name)
    return f"step {int(step[1]):,}" if step else _at(path) or "step not recorded"


def _at(path: Path) -> str:
    """At which step a picture was made, which is not the end of a run that went on; empty where it does not say."""
    step = step_shown(path)
    return "" if step is None else f"at step {step:,}"


def _evaluations(evaluations: Rows) -> Html:
    if not evaluations:
        return NOTHING
    keys = list(dict.fromkeys(key for row in evaluations for key in row))
    table = table_of(
        [heading(key) for key in keys], [[shown(k, row.get(k)) for k in keys] for row in evaluations], NUMBER
    )
    meanings = [f"{key}: {meaning}" for key in keys if (meaning := figure(key).meaning)]
    return markup('<h2>Evaluations</h2>{}<p class="muted">{}.</p>', table, "; ".join(meanings))


def _scores(run: RunFolder) -> Html:
    """What ``dinov3 eval`` measured of it, each as it was measured last."""
    body = [[*known, *measured] for known, measured in scores_of(run).items()]
    return NOTHING if not body else markup("<h2>Measured by dinov3 eval</h2>{}", table_of(SCORES_HEAD, body))


def _last_figures(row: Mapping[str, Any]) -> Html:
    """Everything the last logged step says, also what no curve shows."""
    body = [
        [markup("<code>{}</code>", heading(key)), shown(key, value), figure(key).meaning] for key, value in row.items()
    ]
    table = table_of(("figure", "value", "meaning"), body)
    return markup("<details><summary>All figures of the last logged step</summary>{}</details>", table)


def _config(run: RunFolder, known: InForce) -> Html:
    """What differs from the defaults, as it is now, and what it was at the start; secrets are not shown."""
    damage = markup("<p>{}.</p>", known.problem) if known.problem else NOTHING
    if known.now is None or known.began is None:
        return damage
    default = flatten(to_dict(root_of(task_of(known.now))()))
    now, began = (flatten(redacted("", config)) for config in (known.now, known.began))
    body = [
        [
            markup("<code>{}</code>", key),
            joined([json.dumps(value), _began(began.get(key), value)], ""),
            markup('<span class="muted">{}</span>', json.dumps(default.get(key))),
        ]
        for key, value in now.items()
        if value != default.get(key) or began.get(key) != value
    ]
    changes = ", ".join(path.name for path in history_of(run))
    later = markup("<p>Changed since the start: {} in config_history.</p>", changes) if changes else NOTHING
    table = table_of(("key", "this run", "default"), body)
    return markup("<h2>Config, where it differs from the default</h2>{}{}{}", damage, table, later)


def _began(value: object, now: object) -> Html:
    return NOTHING if value == now else markup(' <span class="muted">(at the start {})</span>', json.dumps(value))


def _start(run: RunFolder, newest: Path | None) -> Html:
    """The start-up blocks: device, versions, data, schedules of every start."""
    if not run.log.is_file():
        return NOTHING
    text = run.log.read_text(encoding="utf-8", errors="backslashreplace")
    blocks = re.findall(r"^\S+ \S+ INFO dinov3: (dinov3 .*?)(?=^\d{4}-\d\d-\d\d )", text + "\n0000-00-00 ", re.M | re.S)
    versions = NOTHING
    if newest is not None:
        facts = read_train_state(newest).get("versions") or {}
        versions = markup("<p>{}</p>", ", ".join(f"{name} {version}" for name, version in facts.items()))
    starts = joined((markup("<pre>{}</pre>", block.rstrip()) for block in blocks), "")
    return markup("<h2>Environment</h2>{}{}", versions, starts)


def _checkpoints(run: Path) -> tuple[Path | None, Html]:
    """The newest whole one, and what there is to say."""
    try:
        newest = newest_valid(run)
    except CheckpointError as error:
        return None, markup('<div class="alarm">{}</div>', error)
    if newest is None:
        return None, Html("<p>No checkpoint yet.</p>")
    return newest, markup(
        "<p>Newest whole checkpoint: step {}, in <code>{}</code>.</p>", f"{step_of(newest):,}", newest
    )


def _files(run: RunFolder, checkpoints: Html) -> Html:
    bad = len(read_rows(run.bad_samples))
    return markup(
        "<h2>Files</h2>{}<p>{}</p>", checkpoints, f"Unreadable images: {bad}." if bad else "No unreadable images."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 report``."""
    parser.description = (
        "One self-contained HTML page of a run: curves, alarms, pictures, evaluations, config, environment; "
        "of a run with stages for each of them."
    )
    parser.add_argument("run", type=expanded, help="run folder, also of a run with stages")
    parser.add_argument("--out", type=expanded, help="file to write (default: RUN/report.html)")
    parser.add_argument("--serve", action="store_true", help="show it on this machine, made anew while the run trains")
    parser.add_argument("--port", type=int, default=8420, help="of --serve, on 127.0.0.1 (default 8420; 0: any)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.serve:
        from dinov3.pictures.serve import serve

        return serve(args.run, args.port)
    print(write_report(args.run, args.out))
    return 0


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run to ``out``, ``RUN/report.html`` by default. Raises FeatureError and OSError."""
    content, out = report(run), out or run / "report.html"
    check_output_file(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content)
    return out
