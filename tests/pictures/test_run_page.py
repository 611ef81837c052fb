from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dinov3.cli import main
from dinov3.runs.checkpoint import step_folders
from dinov3.train.command import main as train
from tests.train.tiny import command

VOID = {"meta", "img", "br", "hr"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report") / "a <b> run"
    sets = {
        "evaluation__knn__train": "Synthetic:n=20:size=40",
        "evaluation__knn__test": "Synthetic:n=10:size=40:seed=9",
    }
    assert train(command(run, train__max_steps=4, evaluation__pictures_period=2, **sets)) == 0
    (run / "alarms.jsonl").write_text('{"iteration": 3, "alarm": "collapse", "text": "alarm at step 3, <collapse>"}\n')
    assert main(["report", str(run)]) == 0
    return run / "report.html"


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_every_part_and_needs_nothing_else(page: Path) -> None:
    content = page.read_text()
    parser = Balance()
    parser.feed(content)
    assert parser.open == []
    assert '<div class="wide"><svg' in content  # a narrow window scrolls the curves instead of shrinking their letters
    for words in (
        "a <b> run",
        "alarm at step 3, <collapse>",
        "Curves",
        "k-NN",
        "student.embed_dim",
        "torch",
        "step 2",
        "effective rank",
    ):
        assert words in parser.text, words
    assert content.count("data:image/png;base64,") >= 3
    outside = [u for u in re.findall(r'(?:src|href)="([^"]+)"', content) if not u.startswith(("data:", "#"))]
    assert outside == []
    assert "<script" not in content


def test_secrets_of_the_config_are_not_shown(page: Path) -> None:
    config = page.with_name("config.json")
    kept = config.read_text()
    config.write_text(kept.replace('"arch":', '"api_key": "hunter2", "arch":', 1))
    assert main(["report", str(page.parent), "--out", str(page.with_name("other.html"))]) == 0
    config.write_text(kept)
    content = page.with_name("other.html").read_text()
    assert "hunter2" not in content
    assert "<code>student.n_storage_tokens</code></td><td>2</td>" in content, "no secret, whatever it is called"


def test_a_run_whose_checkpoints_are_damaged_has_a_page_that_says_so(page: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(page.parent, tmp_path / "run"))
    for folder in step_folders(run):
        (folder / "manifest.json").unlink()
    assert main(["report", str(run)]) == 0
    assert "no checkpoint can be read (step-00000004: manifest.json is missing" in (run / "report.html").read_text()


def test_a_folder_without_metrics_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 78
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the chromium browser")
def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    shot = tmp_path / "shot.png"
    dump = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            *quiet,
            "--disable-component-update",
            f"--user-data-dir={tmp_path}/profile",
            f"--screenshot={shot}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Evaluations" in dump.stdout
    assert shot.stat().st_size > 10_000
