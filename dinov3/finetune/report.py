"""``dinov3 finetune report RUN…``: finished runs side by side, as a table and as one HTML page with their curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from dinov3.config.output import check_output_file
from dinov3.finetune.curves import draw_curves
from dinov3.finetune.errors import FinetuneError
from dinov3.finetune.predictions import Predicted, read_predictions
from dinov3.finetune.results import PREDICTIONS, RESULTS, Results, read_results, shown
from dinov3.system.files import write_whole
from dinov3.system.html import Html, joined, markup

METRICS = ("AUROC", "AUPRC", "Acc", "BalancedAcc", "Sens95", "NLL", "Brier", "ECE")
STYLE = Html(
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1400px;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:.85rem}td,th{padding:.25rem .7rem .25rem 0;text-align:left;"
    "border-bottom:1px solid #e4e7eb;white-space:nowrap}.wide{overflow-x:auto}img{max-width:100%}"
)
PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"><title>fine-tuning</title>"
    "<style>{}</style><body><h1>Fine-tuning</h1>{}</body></html>\n"
)


def report(runs: Sequence[Path], out: Path | None) -> int:
    """Print the table; write the page to ``out``. FinetuneError without runs, or for one that is not finished."""
    if not runs:
        raise FinetuneError("report: give the folders of finished runs")
    if out is not None:
        check_output_file(out, "--out")
    found = [(path, read_results(path / RESULTS)) for path in runs]
    parts = [part for part in ("test", "validation") if any(part in results["sets"] for _, results in found)]
    for part in parts:
        rows = rows_of(found, part)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        print(f"{part}, with 95 % intervals")
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if out is not None:
        write_whole(out, markup(PAGE, STYLE, joined(_section(found, part) for part in parts)))
        print(f"page: {out}")
    return 0


def rows_of(found: Sequence[tuple[Path, Results]], part: str) -> list[list[str]]:
    """The head, then a row a run that has this part."""
    rows = [["run", "trained", "step", "parameters", "views", "images", *METRICS, "data"]]
    for _, results in found:
        one = results["sets"].get(part)
        if one is None:
            continue
        about = [results["run"], results["label"], str(results["step"]), f"{results['parameters'] / 1e6:.2f} M"]
        views = "8" if results["tta"] else "1"
        scores = (shown(one["scores"].get(name, {})) for name in METRICS)
        rows.append([*about, views, f"{one['images']:,}", *scores, str(one.get("data", ""))])
    return rows


def _section(found: Sequence[tuple[Path, Results]], part: str) -> Html:
    head, *body = rows_of(found, part)
    heads = joined((markup("<th>{}</th>", cell) for cell in head), "")
    rows = joined((markup("<tr>{}</tr>", joined((markup("<td>{}</td>", c) for c in row), "")) for row in body), "")
    table = markup('<h2>{}</h2><div class="wide"><table><tr>{}</tr>{}</table></div>', part, heads, rows)
    return joined([table, _picture(found, part)])


def _picture(found: Sequence[tuple[Path, Results]], part: str) -> Html:
    """ROC, precision-recall and reliability of the runs with two classes."""
    lines: dict[str, Predicted] = {}
    for path, results in found:
        if results["classes"] == 2 and part in results["sets"] and (path / PREDICTIONS).is_file():
            lines[results["run"]] = read_predictions(path / PREDICTIONS)[results["run"], part]
    if not lines:
        return Html("")
    picture = io.BytesIO()
    draw_curves({name: (one.p, one.y) for name, one in lines.items()}, picture, form="png")
    return markup('<img alt="curves" src="data:image/png;base64,{}">', base64.b64encode(picture.getvalue()).decode())
