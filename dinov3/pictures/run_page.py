"""``dinov3 report RUN``: everything a run left behind, on one HTML page that needs nothing else."""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinov3.config.dump import to_dict
from dinov3.config.output import check_output_file
from dinov3.config.redaction import redacted
from dinov3.config.schema import Config
from dinov3.features.errors import FeatureError
from dinov3.pictures.curves import draw_panels, panels_of
from dinov3.runs.checkpoint import CheckpointError, newest_valid, step_of
from dinov3.runs.stage_record import StageRecord, read_stages
from dinov3.runs.student_folders import student_folders
from dinov3.system.paths import expanded
from dinov3.system.rows import read_rows

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}.muted{color:#7b8794}
table{border-collapse:collapse;font-size:.9rem}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e4e7eb}
td.n{text-align:right;font-variant-numeric:tabular-nums}td{overflow-wrap:anywhere}svg,img{max-width:100%;height:auto}
.wide{overflow-x:auto}.wide svg{min-width:900px}code,pre{font-size:.85rem}
pre{background:#f5f7fa;padding:.8rem;overflow:auto}.alarm{border-left:4px solid #d64545;padding:.4rem .8rem;background:#fdf2f2;margin:.4rem 0}
.tiles{display:flex;flex-wrap:wrap;gap:1.5rem;margin:1rem 0}.tiles b{display:block;font-size:1.4rem}
"""
JUDGED_FROM = 100  # steps


def report(run: Path) -> str:
    """The page of a run; of one with stages all of them, in their order. Raises FeatureError when nothing was trained."""
    try:
        stages = read_stages(run)
    except ValueError as error:
        raise FeatureError(str(error)) from error
    parts = _stages(run, stages) if stages else _run(run)
    title = html.escape(run.resolve().name)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style><body>{"".join(parts)}</body></html>\n'


def _run(run: Path) -> list[str]:
    """A run's parts; FeatureError when it has no metrics."""
    rows = read_rows(run / "metrics.jsonl")
    if not rows:
        if students := student_folders(run):
            raise FeatureError(f"{run}: holds several students; give the folder of one, {students[0]}")
        raise FeatureError(f"{run}: no metrics.jsonl with a line in it: not the folder of a run that trained")
    evaluations, alarms = read_rows(run / "evaluation.jsonl"), read_rows(run / "alarms.jsonl")
    newest, checkpoints = _checkpoints(run)
    return [
        _heading(run),
        f'<p class="muted">{html.escape(str(run.resolve()))}, written {time.strftime("%Y-%m-%d %H:%M", time.localtime((run / "metrics.jsonl").stat().st_mtime))}</p>',
        _tiles(rows, evaluations),
        _alarms(alarms, rows),
        "<h2>Curves</h2>",
        f'<div class="wide">{_svg(rows, evaluations)}</div>',
        _pictures(run),
        _evaluations(evaluations),
        _last_figures(rows[-1]),
        _config(run),
        _start(run, newest),
        _files(run, checkpoints),
    ]


def _heading(run: Path) -> str:
    return f"<h1>{html.escape(run.resolve().name)}</h1>"


def _stages(run: Path, stages: Sequence[StageRecord]) -> list[str]:
    """How far each stage is, then the parts of all that have begun. FeatureError when none has."""
    begun = [stage for stage in stages if read_rows(run / stage.folder / "metrics.jsonl")]
    if not begun:
        raise FeatureError(f"{run}: none of its stages has trained a step yet")
    head = "".join(f"<th>{name}</th>" for name in ("stage", "state", "began from", "loss, first to last"))
    body = "".join(f"<tr>{_stage_cells(run, stage)}</tr>" for stage in stages)
    sections = [part for stage in begun for part in (_mark(stage), *_run(run / stage.folder))]
    return [_heading(run), f"<h2>Stages</h2><table><tr>{head}</tr>{body}</table>", *sections]


def _mark(stage: StageRecord) -> str:
    return f'<hr id="{html.escape(stage.folder)}">'


def _stage_cells(run: Path, stage: StageRecord) -> str:
    rows = read_rows(run / stage.folder / "metrics.jsonl")
    folder, name = html.escape(stage.folder), html.escape(stage.name)
    done = rows[-1]["iteration"] + 1 if rows else 0
    state = f"{'finished' if stage.finished else 'at step'} {done:,} of {stage.steps:,}" if rows else "not begun"
    cells = [
        f'<a href="#{folder}">{name}</a>' if rows else name,
        state,
        html.escape(stage.began_from or ""),
        f"{rows[0]['total_loss']:.3f} → {rows[-1]['total_loss']:.3f}" if rows else "",
    ]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _tiles(rows: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> str:
    last = rows[-1]
    speeds = sorted(row["images_per_second"] for row in rows if "images_per_second" in row)
    tiles = [("steps", f"{last['iteration'] + 1:,}"), ("images seen", f"{last['samples']:,}")]
    tiles.append(("loss, first to last", f"{rows[0]['total_loss']:.3f} → {last['total_loss']:.3f}"))
    if speeds:
        tiles.append(("images/s, median", f"{speeds[len(speeds) // 2]:,.1f}"))
    for key, name in (("knn_accuracy", "k-NN"), ("linear_accuracy", "linear probe")):
        measured = [row[key] for row in evaluations if key in row]
        if measured:
            tiles.append((f"{name}, first to last", f"{100 * measured[0]:.1f} → {100 * measured[-1]:.1f} %"))
    tiles.append(("steps skipped", str(last.get("skipped_steps", 0))))
    return (
        '<div class="tiles">'
        + "".join(f'<div><b>{v}</b><span class="muted">{k}</span></div>' for k, v in tiles)
        + "</div>"
    )


def _alarms(alarms: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> str:
    found = "".join(f'<div class="alarm">{html.escape(row["text"])}</div>' for row in alarms)
    # most rules wait until a run had time to get going (train/alarms.py)
    none = "None." if rows[-1]["iteration"] >= JUDGED_FROM else f"None; a run is judged from step {JUDGED_FROM} on."
    return "<h2>Alarms</h2>" + (found or f'<p class="muted">{none}</p>')


def _svg(rows: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> str:
    out = io.BytesIO()
    draw_panels(panels_of(rows, evaluations), out, "svg")
    text = out.getvalue().decode()
    return text[text.index("<svg") :]


def _pictures(run: Path) -> str:
    over_time = sorted((run / "pictures").glob("pca-*.png")) if (run / "pictures").is_dir() else []
    shown = over_time[:: max(1, len(over_time) // 6)][-7:]  # a few of many
    last = run / "pca.png"
    if last.is_file() and not (shown and shown[-1].read_bytes() == last.read_bytes()):
        shown.append(last)
    if not shown:
        return ""
    figures = "".join(f"<p>{_caption(path)}</p>{_img(path)}" for path in shown)
    return f'<h2>Patch features as colours</h2><p class="muted">First three principal components; the same images every time.</p>{figures}'


def _caption(path: Path) -> str:
    step = re.search(r"(\d+)\.png$", path.name)
    return f"step {int(step[1]):,}" if step else "at the end"


def _img(path: Path) -> str:
    return f'<img alt="{html.escape(path.name)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _evaluations(evaluations: Sequence[dict[str, Any]]) -> str:
    if not evaluations:
        return ""
    keys = list(dict.fromkeys(key for row in evaluations for key in row))
    head = "".join(f"<th>{html.escape(key)}</th>" for key in keys)
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{_number(row.get(key))}</td>' for key in keys) + "</tr>" for row in evaluations
    )
    return f"<h2>Evaluations</h2><table><tr>{head}</tr>{body}</table>"


def _last_figures(row: dict[str, Any]) -> str:
    """Everything the last logged step says, also what no curve shows."""
    cells = "".join(
        f'<tr><td><code>{html.escape(key)}</code></td><td class="n">{_number(value)}</td></tr>'
        for key, value in row.items()
    )
    return f"<details><summary>All figures of the last logged step</summary><table>{cells}</table></details>"


def _number(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _config(run: Path) -> str:
    """What differs from the defaults; secrets are not shown."""
    path = run / "config.json"
    if not path.is_file():
        return ""
    default, own = _flat(to_dict(Config())), _flat(redacted("", json.loads(path.read_text())))
    rows = []
    for key, value in own.items():
        if value != default.get(key):
            rows.append(
                f"<tr><td><code>{html.escape(key)}</code></td><td>{html.escape(json.dumps(value))}</td><td class='muted'>{html.escape(json.dumps(default.get(key)))}</td></tr>"
            )
    changes = (
        sorted(p.name for p in (run / "config_history").glob("*.yaml")) if (run / "config_history").is_dir() else []
    )
    later = f"<p>Changed later: {', '.join(map(html.escape, changes))} in config_history.</p>" if changes else ""
    return f"<h2>Config, where it differs from the default</h2><table><tr><th>key</th><th>this run</th><th>default</th></tr>{''.join(rows)}</table>{later}"


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _start(run: Path, newest: Path | None) -> str:
    """The start-up blocks: device, versions, data, schedules of every start."""
    log = run / "run.log"
    if not log.is_file():
        return ""
    blocks = re.findall(
        r"^\S+ \S+ INFO dinov3: (dinov3 .*?)(?=^\d{4}-\d\d-\d\d )", log.read_text() + "\n0000-00-00 ", re.M | re.S
    )
    versions = ""
    if newest is not None:
        facts = json.loads((newest / "train_state.json").read_text()).get("versions", {})
        versions = "<p>" + ", ".join(f"{html.escape(k)} {html.escape(str(v))}" for k, v in facts.items()) + "</p>"
    starts = "".join(f"<pre>{html.escape(block.rstrip())}</pre>" for block in blocks)
    return f"<h2>Environment</h2>{versions}{starts}"


def _checkpoints(run: Path) -> tuple[Path | None, str]:
    """The newest whole one, and what there is to say."""
    try:
        newest = newest_valid(run)
    except CheckpointError as error:
        return None, f'<div class="alarm">{html.escape(str(error))}</div>'
    if newest is None:
        return None, "<p>No checkpoint yet.</p>"
    return (
        newest,
        f"<p>Newest whole checkpoint: step {step_of(newest):,}, in <code>{html.escape(str(newest))}</code>.</p>",
    )


def _files(run: Path, checkpoints: str) -> str:
    bad = len(read_rows(run / "bad_samples.jsonl"))
    return f"<h2>Files</h2>{checkpoints}<p>{f'Unreadable images: {bad}.' if bad else 'No unreadable images.'}</p>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 report``."""
    parser.description = (
        "One self-contained HTML page of a run: curves, alarms, pictures, evaluations, config, environment; "
        "of a run with stages for each of them."
    )
    parser.add_argument("run", type=expanded, help="run folder, also of a run with stages")
    parser.add_argument("--out", type=expanded, help="file to write (default: RUN/report.html)")


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    page, out = report(args.run), args.out or args.run / "report.html"
    check_output_file(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.tmp")
    temporary.write_text(page)
    os.replace(temporary, out)
    print(out)
    return 0
