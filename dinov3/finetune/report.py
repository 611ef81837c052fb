"""``dinov3 finetune report RUN…``: finished runs side by side, a table for each task, and one HTML page with their pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from dinov3.finetune.curves import draw_curves, has_curves
from dinov3.finetune.kinds import CLASSIFIER, JUDGED
from dinov3.finetune.predictions import Predicted, read_predictions
from dinov3.finetune.results import (
    PREDICTIONS,
    RESULTS,
    Results,
    by_class_of,
    notes_of,
    positive_of,
    read_results,
    shown,
)
from dinov3.runs.output import check_output_file
from dinov3.system.columns import aligned
from dinov3.system.errors import UsageError
from dinov3.system.files import write_whole
from dinov3.system.html import Html, embedded, joined, markup
from dinov3.system.json_file import JsonError, read_object

PREDICTED = "predictions.png"  # of a run with a dense head
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


class Section(NamedTuple):
    """A table of comparable runs: the head, then a row a run; and what is shown below it."""

    title: str
    rows: list[list[str]]
    picture: Html
    notes: Sequence[str] = ()


def report(runs: Sequence[Path], out: Path | None) -> int:
    """Print the tables; write the page to ``out``. UsageError without runs, FinetuneError for one that is not finished."""
    if not runs:
        raise UsageError("finetune report: give the folders of finished runs")
    if out is not None:
        check_output_file(out, "--out")
    sections = list(_sections(runs))
    for section in sections:
        print("\n".join([section.title, aligned(section.rows), *section.notes]))
    if out is not None:
        write_whole(out, markup(PAGE, STYLE, joined(_html(section) for section in sections)))
        print(f"page: {out}")
    return 0


def _sections(runs: Sequence[Path]) -> Iterator[Section]:
    """Classifiers' first, then those of each other task."""
    by_room: dict[str, list[Path]] = {}
    for path in runs:
        by_room.setdefault(JUDGED.get(_format_of(path / RESULTS), CLASSIFIER), []).append(path)
    found = [(path, read_results(path / RESULTS)) for path in by_room.pop(CLASSIFIER, [])]
    for part in ("test", "validation"):
        if any(part in results["sets"] for _, results in found):
            notes = [
                f"{path.resolve().name}: {line}"
                for path, results in found
                for line in (*by_class_of(results, part), *notes_of(results))
            ]
            yield Section(f"{part}, with 95 % intervals", rows_of(found, part), _picture(found, part), notes)
    for room, paths in by_room.items():
        yield _judged(import_module(f"{room}.evaluate").JUDGE, paths)


def _format_of(path: Path) -> str:
    """Of a file that is looked at by who reads it; "" for one that cannot be."""
    try:
        return str(read_object(path, {"format": str})["format"])
    except (OSError, JsonError):
        return ""


def _judged(judge: Any, paths: Sequence[Path]) -> Section:
    """Runs of one task with a dense head, with the pictures of their predictions."""
    found = [{"run": path.resolve().name, **judge.columns(judge.read_results(path / RESULTS))} for path in paths]
    heads = list(dict.fromkeys(name for row in found for name in row))
    rows = [heads, *([row.get(head, "") for head in heads] for row in found)]
    pictures = [
        markup(
            "<h3>{}</h3>{}", path.resolve().name, markup('<img alt="predictions" src="{}">', embedded(path / PREDICTED))
        )
        for path in paths
        if (path / PREDICTED).is_file()
    ]
    return Section(f"{judge.kind}, validation images", rows, joined(pictures))


def rows_of(found: Sequence[tuple[Path, Results]], part: str) -> list[list[str]]:
    """The head, then a row a run that has this part."""
    told = any(map(positive_of, (results for _, results in found)))
    rows = [["run", "trained", "step", "parameters", "views", "images", *["positive"] * told, *METRICS, "data"]]
    for _, results in found:
        one = results["sets"].get(part)
        if one is None:
            continue
        about = [results["run"], results["label"], str(results["step"]), f"{results['parameters'] / 1e6:.2f} M"]
        views = "8" if results["tta"] else "1"
        scores = (shown(one["scores"].get(name, {})) for name in METRICS)
        positive = [positive_of(results)] * told
        rows.append([*about, views, f"{one['images']:,}", *positive, *scores, str(one.get("data", ""))])
    return rows


def _html(section: Section) -> Html:
    head, *body = section.rows
    heads = joined((markup("<th>{}</th>", cell) for cell in head), "")
    rows = joined((markup("<tr>{}</tr>", joined((markup("<td>{}</td>", c) for c in row), "")) for row in body), "")
    table = markup('<h2>{}</h2><div class="wide"><table><tr>{}</tr>{}</table></div>', section.title, heads, rows)
    return joined([table, *(markup("<p>{}</p>", note) for note in section.notes), section.picture])


def _picture(found: Sequence[tuple[Path, Results]], part: str) -> Html:
    """ROC, precision-recall and reliability of the runs with two classes."""
    lines: dict[str, Predicted] = {}
    for path, results in found:
        if results["classes"] == 2 and part in results["sets"] and (path / PREDICTIONS).is_file():
            predicted = read_predictions(path / PREDICTIONS)[results["run"], part]
            if has_curves(predicted.y):
                lines[results["run"]] = predicted
    if not lines:
        return Html("")
    picture = io.BytesIO()
    draw_curves({name: (one.p, one.y) for name, one in lines.items()}, picture, form="png")
    return markup('<img alt="curves" src="{}">', embedded(picture.getvalue()))
