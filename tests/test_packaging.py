"""What stands around the package: container, citation, issue forms, CI. Read, not run: no test has a network."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dinov3

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_said_once_and_the_same_everywhere() -> None:
    assert PROJECT["version"] == dinov3.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == dinov3.__version__


def test_the_container_installs_torch_in_the_range_of_the_package_and_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for wanted in [name for name in PROJECT["dependencies"] if name.startswith("torch")]:
        assert f'"{wanted}"' in text
    (extras,) = re.findall(r"\.\[([\w,]+)\]", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert text.index('pip install "torch') < text.index("COPY . ."), "a change of the code does not fetch torch again"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
def test_an_issue_form_has_what_a_form_needs(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in form["body"])


def test_extras_that_errors_name_exist() -> None:
    named = {
        extra
        for path in (ROOT / "dinov3").rglob("*.py")
        for words in re.findall(r"dinov3\[([\w,]+)\]", path.read_text())
        for extra in words.split(",")
    }
    assert named <= set(PROJECT["optional-dependencies"]), "pip would only warn"


def test_the_charts_library_is_shipped_with_its_licence() -> None:
    folder = ROOT / "dinov3" / "pictures" / "charts"
    assert "MIT" in (folder / "LICENSE").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css", "draw.js"):
        assert (folder / name).is_file()
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["dinov3"]
    assert {"pictures/charts/*.js", "pictures/charts/*.css", "pictures/charts/LICENSE"} <= set(patterns)
