from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from dinov3.cli import main
from dinov3.config.load import load_config, to_yaml
from dinov3.pictures import run_page
from dinov3.pictures.dated import save_png, step_shown
from dinov3.pictures.run_page import report
from dinov3.runs.step_folders import step_folders
from dinov3.train.command import main as train
from tests.overview.test_runs import a_run
from tests.train.tiny import command

VOID = {"meta", "img", "br", "hr", "link"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report") / "a <b> run"
    sets = {
        "evaluation__knn__train": "Synthetic:n=20:size=40",
        "evaluation__knn__test": "Synthetic:n=10:size=40:seed=9",
    }
    assert (
        train(command(run, train__max_steps=4, evaluation__pictures="true", evaluation__pictures_period=2, **sets)) == 0
    )
    (run / "alarms.jsonl").write_text('{"iteration": 3, "alarm": "collapse", "text": "alarm at step 3, <collapse>"}\n')
    labelled = ["--train", "Synthetic:n=20:size=40", "--cache", str(run.parent / "cache")]
    assert main(["eval", "knn", "--weights", str(run), *labelled]) == 0
    assert main(["report", str(run)]) == 0
    return run / "report.html"


class Balance(HTMLParser):
    """What a page consists of, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
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
    assert (
        content.count("data:image/svg+xml;base64,") >= 8
    )  # each curve for itself: as many in a row as there is room for
    for words in (
        "a <b> run",
        "alarm at step 3, <collapse>",
        "Curves",
        "Measured by dinov3 eval",
        "step-00000004",
        "k-NN",
        "student.embed_dim",
        "torch",
        "step 2",
        "effective number of dimensions",
        "knn_accuracy, %",
    ):
        assert words in parser.text, words
    assert content.count("data:image/png;base64,") >= 3
    assert "at the end" not in parser.text
    assert [step_shown(page.with_name(name)) for name in ("pca.png", "neighbours.png")] == [4, 4]
    outside = [u for u in re.findall(r'(?:src|href)="([^"]+)"', content) if not u.startswith(("data:", "#"))]
    assert outside == []
    assert content.count("<script") == 3, "the data, uPlot, and what draws with it"
    assert len(re.findall(r"'sha256-[\w+/=]+'", content)) == 2


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


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "nosuch")
    for words in (
        ["report", place],
        ["compare", place, str(tmp_path)],
        ["viz", "curves", "--weights", place, "--out", "x.png"],
    ):
        assert main(words) == 78
        assert capsys.readouterr().err == f"error: {place}: there is no such folder: give that of a run\n"


def test_a_folder_without_metrics_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 78
    assert capsys.readouterr().err.count("\n") == 1


def continued(run: Path) -> Path:
    """A run of 4 steps that goes on to 400 and is stopped at the 68th."""
    a_run(run, [3.0] * 68)
    (run / "config_history").mkdir()
    cfg = load_config(None, ["train.OFFICIAL_EPOCH_LENGTH=4", "optim.epochs=100", "optim.lr=0.3"])
    (run / "config_history" / "0001.yaml").write_text(to_yaml(cfg))
    canvas = torch.rand(3, 20, 20)
    save_png(canvas, run / "pca.png", 60)
    save_png(canvas, run / "neighbours.png")
    return run


def test_a_run_that_was_stopped_says_so_and_pictures_say_of_which_step_they_are(tmp_path: Path) -> None:
    parser = Balance()
    parser.feed(report(continued(tmp_path / "run")))
    assert "stopped, 68 of 400steps" in parser.text
    assert "at step 60" in parser.text
    assert "nearest to it ." not in parser.text
    assert "at the end" not in parser.text


def test_the_config_is_the_one_in_force_and_says_what_it_was_at_the_start(tmp_path: Path) -> None:
    run = continued(tmp_path / "run")
    assert '<code>optim.lr</code></td><td>0.3 <span class="muted">(at the start 0.1)</span></td>' in report(run)
    (run / "config_history" / "0002.yaml").write_text("optim: [")
    page = report(run)
    assert "0002.yaml of config_history cannot be read" in page
    assert "<code>optim.lr</code></td><td>0.1</td>" in page


TAGS = {
    *(
        "html",
        "meta",
        "link",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "div",
        "b",
        "span",
        "img",
        "table",
        "tr",
        "th",
    ),
    *("td", "code", "pre", "details", "summary", "hr", "a", "figure", "figcaption", "noscript", "script"),
}
ATTRIBUTES = {
    "lang",
    "charset",
    "name",
    "content",
    "http-equiv",
    "rel",
    "href",
    "class",
    "alt",
    "src",
    "id",
    "type",
    "data-panel",
}
EVIL = "\"'></style></title></pre><script>document.documentElement.dataset.ran=1</script><img src=x onerror=document.documentElement.dataset.ran=2>{}&"
MARK = "document.documentElement.dataset.ran"
FOLDER_NAME = "\"'><img src=x onerror=document.documentElement.dataset.ran=3>&lt;{}"  # a name has no slash


def hostile_run(run: Path) -> Path:
    """A run in which every name and value that can be read is markup."""
    (run / "pictures").mkdir(parents=True)
    (run / "config_history").mkdir()
    for name in ("pca.png", "neighbours.png", f"pictures/pca-{FOLDER_NAME}-00000004.png"):
        (run / name).write_bytes(b"no picture")
    (run / "config_history" / f"{FOLDER_NAME}.yaml").write_text("")
    good = {"iteration": 3, "samples": 32, "total_loss": 1.0, f"{EVIL}_loss": 2.0, f"{EVIL}_grad_norm": 1.0, EVIL: EVIL}
    bad = {"iteration": EVIL, "samples": EVIL, "total_loss": EVIL, "skipped_steps": EVIL, "images_per_second": EVIL}
    (run / "metrics.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | bad) + "\n")
    (run / "evaluation.jsonl").write_text(
        json.dumps({"step": 0, "knn_accuracy": 0.5, EVIL: EVIL, "rankme": [EVIL]}) + "\n"
    )
    (run / "scores.jsonl").write_text(
        json.dumps({"task": EVIL, "data": [EVIL], "protocol": EVIL, "scores": [{EVIL: EVIL, "k": EVIL}, EVIL]})
        + "\n{}\n"
        + json.dumps({"scores": EVIL, "test": {EVIL: EVIL}})
    )
    (run / "alarms.jsonl").write_text(json.dumps({"text": EVIL}) + "\n{}\n")
    (run / "config.json").write_text(json.dumps({EVIL: {EVIL: EVIL}, "train": {"dataset_path": EVIL, "seed": [EVIL]}}))
    (run / "run.log").write_text(
        f"2026-01-01 00:00:00 INFO dinov3: dinov3 {EVIL}\n{EVIL}\n2026-01-01 00:00:01 INFO x: y\n"
    )
    (run / "ckpt" / "step-00000004").mkdir(parents=True)
    (run / "ckpt" / "step-00000004" / "manifest.json").write_text(EVIL)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of two stages with hostile names."""
    whole = tmp_path_factory.mktemp("hostile") / FOLDER_NAME
    stages = [
        {"name": EVIL, "folder": FOLDER_NAME, "steps": 4, "finished": True, "began_from": EVIL},
        {"name": f"2{EVIL}", "folder": f"2{FOLDER_NAME}", "steps": 4, "finished": False, "began_from": None},
    ]
    hostile_run(whole / FOLDER_NAME)
    (whole / "stages.json").write_text(json.dumps({"format": "dinov3-stages", "stages": stages}))
    assert main(["report", str(whole)]) == 0
    return whole / "report.html"


def test_nothing_of_a_run_becomes_markup(hostile: Path) -> None:
    parser = Balance()
    parser.feed(hostile.read_text())
    assert parser.open == []
    assert parser.tags <= TAGS
    assert parser.attributes <= ATTRIBUTES
    assert parser.text.count(MARK) >= 15, "it is all there, as text"


def test_only_the_writer_of_html_makes_markup() -> None:
    """A tag in a literal that is not given to markup(), or a value put into one by an f-string, is what this rule is for."""
    root = Path(run_page.__file__).parents[1]
    for path in sorted({*root.rglob("*.py")} - {root / "system" / "html.py"}):
        tree = ast.parse(path.read_text())
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        trusted = [c.args[0] for c in calls if c.func.id in ("markup", "Html") and c.args]  # type: ignore[attr-defined]
        assert all(isinstance(arg, ast.Constant | ast.Name) for arg in trusted), path
        for node in ast.walk(tree):
            text = (
                "".join(v.value for v in node.values if isinstance(v, ast.Constant))
                if isinstance(node, ast.JoinedStr)
                else ""
            )
            assert not re.search(r"</?(div|p|td|tr|table|span|code|pre|img|h\d|a|b)\b[^<]*>", text), f"{path}: {text}"


def browser(page: Path, folder: Path) -> tuple[str, str]:
    """What the page has become in a browser, and what its console says."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-quic", "--disable-sync", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    command = [
        "chromium",
        *options,
        f"--user-data-dir={folder}/profile",
        f"--screenshot={folder}/shot.png",
        "--dump-dom",
    ]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    assert (folder / "shot.png").stat().st_size > 10_000
    return done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the chromium browser")
@pytest.mark.parametrize("which", ["page", "hostile"])
def test_a_browser_shows_it_and_runs_nothing_of_the_runs(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(which)
    document, said = browser(path, tmp_path)
    assert "Evaluations" in document
    assert document.count('<div class="u-over"') == document.count("data-panel="), "every chart is drawn"
    assert "data-ran" not in document
    assert "CONSOLE" not in said
