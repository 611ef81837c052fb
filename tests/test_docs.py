"""What the texts point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "TODO").rglob("*.md")])
names = pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))


def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@names
def test_every_link_leads_somewhere(text: Path) -> None:
    content = re.sub(r"```.*?```", "", text.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", content):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        page = (text.parent / name).resolve() if name else text
        assert page.exists(), f"{target}: there is no {name}"
        assert page.is_relative_to(ROOT), f"{target} leaves the repository"
        assert not anchor or anchor in headings(page.read_text()), f"{target}: no such heading"


@names
def test_every_file_of_the_repository_that_is_named_is_there(text: Path) -> None:
    named = re.findall(r"`((?:dinov3|configs|scripts|tests|docs|TODO|benchmarks|utility)/[\w./-]+)", text.read_text())
    examples = set(re.findall(r"New file `([^`]+)`", text.read_text()))
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists() and name not in examples]
    assert not missing, f"there is no {missing}"


def test_the_rooms_in_the_architecture_have_the_files_that_are_named() -> None:
    """There paths begin below ``dinov3/``, and those of the table of rooms in the room of their row."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for room, first in re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE):
        folder = ROOT / ("utility" if room == "utility" else f"dinov3/{room}")
        for name in re.findall(r"`([\w/]+\.py)`", first):
            assert (folder / name).is_file(), f"{room}: {name}"
    way = text.partition("## From a command")[2]
    for name in re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?)[:`]", way):
        assert (ROOT / name).exists() or (ROOT / "dinov3" / name).exists(), name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_no_page_links_to_what_the_site_does_not_have(page: Path) -> None:
    """What lies outside docs/ is named, not linked: `make docs` builds the site with warnings as errors."""
    up = "../" * len(page.relative_to(ROOT / "docs").parts)
    assert f"]({up}" not in page.read_text(encoding="utf-8")
