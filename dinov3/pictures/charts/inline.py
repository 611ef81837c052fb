"""Panels as charts of uPlot, everything inside the page; without scripts each is a picture.

The page's policy names the SHA-256 of both scripts, so nothing else runs, whatever a run calls its figures.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dinov3.pictures.curves import Panel, draw_panels
from dinov3.system.html import Html, embedded, joined, markup

HERE = Path(__file__).parent
SCRIPTS = ("uPlot.iife.min.js", "draw.js")
LAYOUT = Html("""
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.2rem .8rem}
.curves figure{margin:0;min-width:0}.curves figcaption{font-size:.95rem}.curves figcaption span{display:block;font-size:.8rem;color:#7b8794}
.curves img{width:100%}.u-legend{font-size:.78rem;text-align:left}
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
        return joined([Html(text("uPlot.min.css")), LAYOUT], "")

    @property
    def scripts(self) -> Html:
        """At the end of the page."""
        data = f'<script type="application/json" id="panels">{as_data(self._panels)}</script>'
        return Html(data + "".join(f"<script>{text(name)}</script>" for name in SCRIPTS))

    @property
    def policy(self) -> Html:
        """Of the Content-Security-Policy."""
        return Html("; script-src " + " ".join(f"'sha256-{digest(text(name))}'" for name in SCRIPTS))


def _figure(panel: Panel, number: int) -> Html:
    frame = (
        '<figure><figcaption>{}<span>{}</span></figcaption><div data-panel="{}"></div><noscript>{}</noscript></figure>'
    )
    return markup(frame, panel.title, panel.note, number, _picture(panel))


def as_data(panels: Sequence[Panel]) -> str:
    """The panels as JSON that no ``</script>`` in a name ends."""
    content = [
        {
            "dots": panel.dots,
            "lines": [{"label": label, "x": x, "y": y} for label, (x, y) in panel.lines.items()],
        }
        for panel in panels
    ]
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


@cache
def text(name: str) -> str:
    """A file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def digest(script: str) -> str:
    """As a Content-Security-Policy names a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _picture(panel: Panel) -> Html:
    out = io.BytesIO()
    draw_panels([panel], out, "svg", columns=1)
    return markup('<img alt="{}" src="{}">', panel.title, embedded(out.getvalue(), "svg+xml"))
