"""HTML in which nothing that was read from anywhere becomes markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


class Html(str):
    """Text that is markup already. Only ``markup`` and ``joined`` make it; everything else is escaped by them."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """``value`` as text of a page or value of an attribute."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def markup(template: str, *values: object) -> Html:
    """``template``, a literal of the program, with each ``{}`` filled by a value, escaped unless it is Html."""
    return Html(template.format(*map(escaped, values)))


def joined(parts: Iterable[object], between: str = "\n") -> Html:
    """Parts one after the other, each escaped unless it is Html; ``between`` is a literal of the program."""
    return Html(between.join(escaped(part) for part in parts))


def embedded(content: Path | bytes, kind: str = "png") -> str:
    """An image as the address of itself, so that a page needs no other file."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@cache
def shipped(path: Path) -> Html:
    """A style or script of this program, as it is. Not for what a run wrote."""
    return Html(path.read_text(encoding="utf-8"))


def script_policy(scripts: Iterable[Path]) -> Html:
    """The part of a Content-Security-Policy that lets these scripts of ours run, each named by its SHA-256, and no other."""
    digests = (hashlib.sha256(shipped(path).encode()).digest() for path in scripts)
    return Html(" ".join(["script-src", *(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)]))


def data_block(name: str, value: Any) -> Html:
    """``value`` as JSON for a script of ours to read by ``name``; no ``</script>`` in a text of it ends the block."""
    content = Html(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
    return markup('<script type="application/json" id="{}">{}</script>', name, content)
