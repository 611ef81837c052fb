"""HTML in which nothing that was read from anywhere becomes markup."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path


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
