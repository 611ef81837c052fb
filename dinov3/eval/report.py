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
from dinov3.config.schema import Config
from dinov3.engine.checkpoint import newest_valid, step_of
from dinov3.engine.metrics import read_metrics
from dinov3.engine.stage_record import read_stages
from dinov3.eval.curves import draw_panels, panels_of
from dinov3.features.errors import FeatureError

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
SECRET = re.compile(r"token|secret|password|api_key", re.IGNORECASE)


def report(run: Path) -> str:
    """The page. Raises FeatureError when ``run`` has no metrics."""
    rows = read_metrics(run / "metrics.jsonl")
    if not rows and (stages := read_stages(run)):
        folders = ", ".join(str(run / stage.folder) for stage in stages)
        raise FeatureError(f"{run}: a run with stages: give the folder of one: {folders}")
    if not rows:
        raise FeatureError(f"{run}: no metrics.jsonl with a line in it: not the folder of a run that trained")
    evaluations, alarms = read_metrics(run / "evaluation.jsonl"), read_metrics(run / "alarms.jsonl")
    parts = [
        f"<h1>{html.escape(run.resolve().name)}</h1>",
        f'<p class="muted">{html.escape(str(run.resolve()))}, written {time.strftime("%Y-%m-%d %H:%M", time.localtime((run / "metrics.jsonl").stat().st_mtime))}</p>',
        _tiles(rows, evaluations),
        _alarms(alarms, rows),
        "<h2>Curves</h2>",
        f'<div class="wide">{_svg(rows, evaluations)}</div>',
        _pictures(run),
        _evaluations(evaluations),
        _config(run),
        _start(run),
        _files(run),
    ]
    title = html.escape(run.resolve().name)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style><body>{"".join(parts)}</body></html>\n'


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


def _number(value: Any) -> str:
    if value is None:
        return ""
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _config(run: Path) -> str:
    """What differs from the defaults; secrets are not shown."""
    path = run / "config.json"
    if not path.is_file():
        return ""
    default, own = _flat(to_dict(Config())), _flat(json.loads(path.read_text()))
    rows = []
    for key, value in own.items():
        if value != default.get(key):
            shown = "(not shown)" if SECRET.search(key) and value else json.dumps(value)
            rows.append(
                f"<tr><td><code>{html.escape(key)}</code></td><td>{html.escape(shown)}</td><td class='muted'>{html.escape(json.dumps(default.get(key)))}</td></tr>"
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


def _start(run: Path) -> str:
    """The start-up blocks: device, versions, data, schedules of every start."""
    log = run / "run.log"
    if not log.is_file():
        return ""
    blocks = re.findall(
        r"^\S+ \S+ INFO dinov3: (dinov3 .*?)(?=^\d{4}-\d\d-\d\d )", log.read_text() + "\n0000-00-00 ", re.M | re.S
    )
    newest = newest_valid(run)
    versions = ""
    if newest is not None:
        facts = json.loads((newest / "train_state.json").read_text()).get("versions", {})
        versions = "<p>" + ", ".join(f"{html.escape(k)} {html.escape(str(v))}" for k, v in facts.items()) + "</p>"
    starts = "".join(f"<pre>{html.escape(block.rstrip())}</pre>" for block in blocks)
    return f"<h2>Environment</h2>{versions}{starts}"


def _files(run: Path) -> str:
    newest = newest_valid(run)
    bad = len(read_metrics(run / "bad_samples.jsonl"))
    lines = [
        f"Newest whole checkpoint: step {step_of(newest):,}, in <code>{html.escape(str(newest))}</code>."
        if newest
        else "No checkpoint yet."
    ]
    lines.append(f"Unreadable images: {bad}." if bad else "No unreadable images.")
    return "<h2>Files</h2>" + "".join(f"<p>{line}</p>" for line in lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 report``."""
    parser.description = (
        "One self-contained HTML page of a run: curves, alarms, pictures, evaluations, config, environment."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="file to write (default: RUN/report.html)")


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
