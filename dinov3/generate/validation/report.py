"""``dinov3 dit report RUN``: what a diffusion transformer was asked for, and whether it does it; on one page with its pictures."""

from __future__ import annotations

import argparse
import base64
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinov3.generate.errors import GenerateError
from dinov3.runs.folder import RunFolder
from dinov3.runs.output import check_output_file
from dinov3.system.files import write_whole
from dinov3.system.html import Html, joined, markup
from dinov3.system.paths import expanded
from dinov3.system.rows import is_number, read_rows

Row = Mapping[str, Any]
STYLE = Html(
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}"
    "td,th{padding:.2rem 1rem .2rem 0;text-align:left}img{max-width:100%}"
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"><title>{}</title><style>{}</style><body><h1>{}</h1>{}</body></html>
"""


class Criterion(NamedTuple):
    """One line of the report."""

    name: str
    value: float
    limit: float | None  # the value is to be below; None: only told
    meaning: str

    @property
    def verdict(self) -> str:
        """``yes``, ``no``, or nothing where there is no limit."""
        return "" if self.limit is None else "yes" if self.value < self.limit else "no"


def criteria(rows: Sequence[Row], limits: Mapping[str, float], baseline: Row | None = None) -> list[Criterion]:
    """Of the last evaluation; ``baseline``: that of another run, against which reconstruction is compared."""
    last = rows[-1]
    meanings = {
        "recon_mse": "from its own text and features, distance to the image (1: the latents' variance)",
        "swap_ratio": "with another image's features, distance to that one over that to its own",
        "text_only_mse": "from the text alone",
        "uncond_mse": "from nothing",
    }
    found = [
        Criterion(name, number_in(last, name), limits.get(name), meaning)
        for name, meaning in meanings.items()
        if name in last
    ]
    per_bucket = [name for name in last if name.startswith("recon_mse_")]
    found += [Criterion(name, number_in(last, name), None, "of one size") for name in per_bucket]
    distances = [name for name in last if name.startswith("frechet_") and name != "frechet_images"]
    told = f"Fréchet distance in the backbone's class tokens, {last.get('frechet_images')} images"
    found += [Criterion(name, number_in(last, name), None, told) for name in distances]
    if baseline is not None:
        before = number_in(baseline, "recon_mse")
        better = 100 * (1 - number_in(last, "recon_mse") / before) if before else math.nan
        found.append(Criterion("recon_gain", better, None, "% less distance than the baseline"))
    return found


def number_in(row: Row, name: str) -> float:
    """A figure of a row; nan for one that is no finite number, which a run that diverged writes: no limit is kept by it."""
    value = row.get(name)
    return float(value) if is_number(value) else math.nan


def last_rows(run: Path) -> list[Row]:
    """The evaluations of a run. GenerateError for one without."""
    rows = [row for row in read_rows(RunFolder(run).evaluation) if "recon_mse" in row and is_number(row.get("step"))]
    if not rows:
        raise GenerateError(f"{run}: no evaluation of `dinov3 dit train` in it")
    return [*rows]


def page(run: Path, found: Sequence[Criterion], rows: Sequence[Row]) -> str:
    """The page."""
    lines = [
        markup(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            *(c.name, f"{c.value:.4g}", "" if c.limit is None else f"< {c.limit:g}"),
            *(c.verdict, c.meaning),
        )
        for c in found
    ]
    head = Html("<tr><th>figure</th><th>value</th><th>limit</th><th>kept</th><th>meaning</th></tr>")
    pictures = sorted(RunFolder(run).pictures.glob("dit-*.png"))
    newest = {re.sub(r"-\d+\.png$", "", path.name): path for path in pictures}  # of each size the last
    shown = [
        markup(
            '<h2>{}</h2><img alt="{}" src="data:image/png;base64,{}">',
            *(path.name, path.name, base64.b64encode(path.read_bytes()).decode()),
        )
        for path in newest.values()
    ]
    body = markup("<p>After step {}.</p><table>{}{}</table>{}", rows[-1]["step"], head, joined(lines), joined(shown))
    return markup(PAGE, run.name, STYLE, run.resolve().name, body)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 dit report``."""
    parser.description = (
        "Figures and pictures of a run of `dinov3 dit train`, judged by limits, on one self-contained page. "
        "It ends with 0 whatever it finds."
    )
    parser.add_argument("run_folder", metavar="run", type=expanded, help="run folder")
    parser.add_argument("--baseline", type=expanded, help="another run: how much nearer reconstructions are")
    parser.add_argument("--max-recon", type=float, default=0.2, help="limit of recon_mse (default 0.2)")
    parser.add_argument("--max-swap-ratio", type=float, default=0.2, help="limit of swap_ratio (default 0.2)")
    parser.add_argument("--out", type=expanded, help="file to write (default: RUN/dit_report.html)")
    parser.set_defaults(run=execute)


def execute(args: argparse.Namespace) -> int:
    """Run the command."""
    rows = last_rows(args.run_folder)
    for option, limit in (("--max-recon", args.max_recon), ("--max-swap-ratio", args.max_swap_ratio)):
        if not limit > 0:
            raise GenerateError(f"{option} {limit:g}: give a number above 0")
    baseline = None if args.baseline is None else last_rows(args.baseline)[-1]
    found = criteria(rows, {"recon_mse": args.max_recon, "swap_ratio": args.max_swap_ratio}, baseline)
    out = args.out or args.run_folder / "dit_report.html"
    check_output_file(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page(args.run_folder, found, rows))
    for c in found:
        kept = f" (below {c.limit:g}: {c.verdict})" if c.limit is not None else ""
        print(f"{c.name:<24}{c.value:>10.4g}{kept}  {c.meaning}")
    print(out)
    return 0
