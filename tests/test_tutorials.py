"""The notebooks of docs/tutorials, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.nightly
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_every_cell_of_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("TUTORIAL_STEPS", "4")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    pictures = [
        o for o in outputs if "image/png" in o.get("data", {}) or "<img" in o.get("data", {}).get("text/html", "")
    ]
    assert pictures, "a tutorial shows something"


def test_tutorials_are_stored_without_output_and_are_listed() -> None:
    import json

    assert len(TUTORIALS) == 2
    listed = (TUTORIALS[0].parents[1] / "tutorials.md").read_text()
    for path in TUTORIALS:
        assert f"tutorials/{path.name}" in listed
        assert all(cell.get("outputs", []) == [] for cell in json.loads(path.read_text())["cells"])
