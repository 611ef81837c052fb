from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from dinov3.system.html import Html, escaped, joined, markup


class Seen(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(alphabet=st.characters(exclude_characters="\r\0", exclude_categories=("Cs",))))
def test_any_value_arrives_as_the_text_or_attribute_it_was(value: str) -> None:
    seen = Seen(markup('<p title="{}">{}</p>', value, value))
    assert seen.tags == [("p", [("title", value)])]
    assert seen.text == value


@given(st.lists(st.text(alphabet="<>&\"'{}x"), max_size=4))
def test_parts_are_escaped_unless_they_are_markup(parts: list[str]) -> None:
    seen = Seen(joined([*parts, Html("<b>")], ""))
    assert seen.tags == [("b", [])]
    assert seen.text == "".join(parts)


def test_markup_stays_markup() -> None:
    assert markup("<p>{}</p>", markup("<b>{}</b>", "<")) == "<p><b>&lt;</b></p>"
    assert escaped(escaped("<")) == "&lt;"
    assert escaped(None) == "None"
