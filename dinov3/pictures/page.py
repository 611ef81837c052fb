"""A page of its own: style, tables, images, charts, and what a browser may do with it."""

from __future__ import annotations

from collections.abc import Sequence

from dinov3.pictures.charts.inline import Charts
from dinov3.system.html import Html, embedded, joined, markup

STYLE = Html("""
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1480px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0;overflow-wrap:anywhere}.muted{color:#7b8794}
table{border-collapse:collapse;font-size:.9rem}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e4e7eb}
td.n{text-align:right;font-variant-numeric:tabular-nums}td{overflow-wrap:anywhere}img{max-width:100%;height:auto}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:.8rem}.curves img{width:100%}
.wide{overflow-x:auto}code,pre{font-size:.85rem}
pre{background:#f5f7fa;padding:.8rem;overflow:auto}.alarm{border-left:4px solid #d64545;padding:.4rem .8rem;background:#fdf2f2;margin:.4rem 0;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:1.5rem;margin:1rem 0}.tiles b{display:block;font-size:1.4rem}
""")
FRAME = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; {}">{}<link rel="icon" href="data:,"><title>{}</title><style>{}</style><body>{}</body></html>
"""
NUMBER = '<td class="n">{}</td>'


def page(title: str, parts: Sequence[Html], charts: Charts, *, refresh: int = 0) -> str:
    """The whole page; the scripts of ``charts`` are the only ones that run. ``refresh``: seconds until it loads again."""
    again = markup('<meta http-equiv="refresh" content="{}">', refresh) if refresh else Html("")
    body = joined([*parts, charts.scripts], "")
    return markup(FRAME, charts.policy, again, title, joined([STYLE, charts.style], ""), body)


def table_of(head: Sequence[object], body: Sequence[Sequence[object]], cell: str = "<td>{}</td>") -> Html:
    """``cell``: what stands around each value."""
    rows = [markup("<tr>{}</tr>", joined((markup(cell, value) for value in row), "")) for row in body]
    heads = joined((markup("<th>{}</th>", name) for name in head), "")
    return markup('<div class="wide"><table><tr>{}</tr>{}</table></div>', heads, joined(rows, ""))


def img(alt: str, kind: str, content: bytes) -> Html:
    """An image inside the page."""
    return markup('<img alt="{}" src="{}">', alt, embedded(content, kind))
