"""Panels as charts of uPlot, everything inside the page; without scripts each is a picture.

The page's policy names the SHA-256 of both scripts, so nothing else runs, whatever a run calls its figures.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinov3.pictures.curves import Panel, draw_panels
from dinov3.system.html import Html, data_block, embedded, joined, markup, script_policy, shipped

HERE = Path(__file__).parent
SCRIPTS = (HERE / "uPlot.iife.min.js", HERE / "draw.js")
LAYOUT = Html("""
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.2rem .8rem}
.curves figure{margin:0;min-width:0}.curves figcaption{font-size:.95rem}.curves figcaption span{display:block;font-size:.8rem;color:#7b8794}
.curves img{width:100%}.u-legend{font-size:.78rem;text-align:left}.u-legend td,.u-legend th{border:0;padding:.1rem .3rem .1rem 0}
""")


class Charts:
    """The charts of one page; ``add`` where they are to be, the rest once at the end."""

    def __init__(self) -> None:
        self._panels: list[Panel] = []

    def add(self, panels: Sequence[Panel]) -> Html:
        """One chart a panel, as many beside each other as there is room for."""
        first = len(self._panels)
        self._panels += panels
        figures = (_figure(panel, number) for number, panel in enumerate(panels, first))
        return markup('<div class="curves">{}</div>', joined(figures, ""))

    @property
    def style(self) -> Html:
        return joined([shipped(HERE / "uPlot.min.css"), LAYOUT], "")

    @property
    def scripts(self) -> Html:
        """At the end of the page."""
        code = (markup("<script>{}</script>", shipped(path)) for path in SCRIPTS)
        return joined([data_block("panels", [as_data(panel) for panel in self._panels]), *code], "")

    @property
    def policy(self) -> Html:
        """Of the Content-Security-Policy."""
        return script_policy(SCRIPTS)


def _figure(panel: Panel, number: int) -> Html:
    frame = (
        '<figure><figcaption>{}<span>{}</span></figcaption><div data-panel="{}"></div><noscript>{}</noscript></figure>'
    )
    return markup(frame, panel.title, panel.note, number, _picture(panel))


def as_data(panel: Panel) -> dict[str, Any]:
    """What ``draw.js`` reads."""
    lines = [{"label": label, "x": x, "y": y, "colour": panel.colours[label]} for label, (x, y) in panel.lines.items()]
    return {"dots": panel.dots, "lines": lines}


def _picture(panel: Panel) -> Html:
    out = io.BytesIO()
    draw_panels([panel], out, "svg", columns=1)
    return markup('<img alt="{}" src="{}">', panel.title, embedded(out.getvalue(), "svg+xml"))
