from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinov3.config.shown import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("photo 1.jpg", "photo 1.jpg"),
        ("\x1b[2J\x1b]0;title\x07.jpg", r"\x1b[2J\x1b]0;title\x07.jpg"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\x9b31m", r"\x9b31m"),
        ("caf\udce9", r"caf\udce9"),
        ("a\u2028b", r"a\u2028b"),
        ("naïve 写真 تصویر‌ها 👩‍🔬", "naïve 写真 تصویر‌ها 👩‍🔬"),
    ],
)
def test_what_cannot_be_seen_is_escaped_and_text_of_any_language_stays(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text())
def test_nothing_that_steers_a_terminal_or_turns_text_is_left(text: str) -> None:
    left = {c for c in shown(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    turned = {
        c for c in shown(text) if unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI")
    }
    assert not left | turned
    shown(text).encode()
    assert shown(shown(text)) == shown(text)
