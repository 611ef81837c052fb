"""``dinov3.train``, ``load``, ``evaluate`` and ``export`` as a notebook uses them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import dinov3
from dinov3.config.errors import ConfigError
from dinov3.data.errors import DataError
from dinov3.features.errors import FeatureError
from dinov3.train.command import main
from dinov3.train.in_python import override_words
from tests.test_readme import write_images
from tests.train.tiny import OVERRIDES, command

TINY = {**OVERRIDES, "train.max_steps": 2, "evaluation.pictures": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> object:
    return dinov3.train(out=tmp_path_factory.mktemp("runs") / "run", **{**TINY, "evaluation.pictures": True})


def test_a_run_returns_what_the_command_leaves_behind(run: object, tmp_path: Path) -> None:
    assert run.finished
    assert [row["iteration"] for row in run.metrics()] == [0, 1]
    changes = {"train__max_steps": 2}
    assert main(command(tmp_path / "same", **changes)) == 0
    theirs = [json.loads(line) for line in (tmp_path / "same" / "metrics.jsonl").read_text().splitlines()]
    assert [row["total_loss"] for row in run.metrics()] == [row["total_loss"] for row in theirs]


def test_a_notebook_sees_the_curves_and_no_other_file(run: object) -> None:
    page = run._repr_html_()
    assert page.count("<img") == 2
    assert page.count('src="data:image/png;base64,') == 2
    assert "finished after 2 steps" in page


def test_the_backbone_of_a_run_is_loaded_exported_and_measured(run: object, tmp_path: Path) -> None:
    write_images(tmp_path / "labelled", 20)
    picture = next((tmp_path / "labelled").rglob("*.jpg"))
    assert dinov3.load(run.path, size=32).extract(picture, pool="cls").shape == (1, 64)
    assert run.load(size=32).extract(picture, pool="cls").shape == (1, 64)
    written = dinov3.export(run.path, tmp_path / "small.safetensors")
    assert written.is_file()
    found = dinov3.evaluate(written, tmp_path / "labelled", k=[3], size=32, cache=tmp_path / "cache")
    assert found["scores"][0]["k"] == 3
    assert 0 <= found["scores"][0]["accuracy"] <= 1
    assert run.report(tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_blocks_and_dotted_keys_are_the_words_of_a_command_line() -> None:
    blocks = {"optim": {"lr": 1e-4, "epochs": 3}, "crops.global_crops_size": [32, 48], "student": {"preset": None}}
    words = ["optim.lr=0.0001", "optim.epochs=3", "crops.global_crops_size=[32, 48]", "student.preset=null"]
    assert override_words(blocks) == words


def test_mistakes_are_raised_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^dinov3\.train: optim\.lr: -1"):
        dinov3.train(out=tmp_path / "run", **{**TINY, "optim.lr": -1})
    with pytest.raises(DataError, match="no such"):
        dinov3.train("nowhere/at/all", tmp_path / "run")
    with pytest.raises(ConfigError, match="nothing says what to train"):
        dinov3.train()
    with pytest.raises(ConfigError, match=r"^dinov3\.train: resume_from: contradicts resume=False"):
        dinov3.train(out=tmp_path / "run", resume_from=tmp_path / "ckpt", resume=False, **TINY)
    with pytest.raises(FeatureError, match="taks"):
        dinov3.evaluate(tmp_path, tmp_path, taks="knn")
    assert list(tmp_path.iterdir()) == []


def test_signal_handlers_are_the_callers_own_again(tmp_path: Path) -> None:
    def mine(*_: object) -> None: ...

    before = {number: signal.signal(number, mine) for number in (signal.SIGUSR1, signal.SIGINT)}
    try:
        dinov3.train(out=tmp_path / "run", **TINY)
        assert [signal.getsignal(number) for number in before] == [mine, mine]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_in_another_thread_trains(tmp_path: Path) -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(dinov3.train(out=tmp_path / "run", **TINY)))
    thread.start()
    thread.join()
    assert found[0].finished


def test_pictures_leave_the_plotting_of_a_notebook_as_it_is() -> None:
    code = """
        import matplotlib
        matplotlib.use("svg")
        import dinov3.pictures.command, dinov3.pictures.curves, dinov3.compress.report, dinov3.finetune.curves
        assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


SCRIPT = """
import os, signal, sys, threading, time
import dinov3
from tests.train.tiny import OVERRIDES

def press(times, metrics):
    while not os.path.exists(metrics):
        time.sleep(0.01)
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)

out, times = sys.argv[1], int(sys.argv[2])
threading.Thread(target=press, args=(times, f"{out}/metrics.jsonl"), daemon=True).start()
long = {"train.num_workers": 1, "optim.epochs": 100000, "checkpointing.period": 100000, "evaluation.pictures": False}
run = dinov3.train(out=out, **{**OVERRIDES, **long})
print("stopped", run.stopped, len(list((run.path / "ckpt").iterdir())))
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("mine again", __file__ == sys.argv[0])
"""


def test_a_script_without_a_guard_is_stopped_by_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(tmp_path / "run"), "1"]
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert "stopped True 1" in done.stdout
    assert "mine again True" in done.stdout


def test_import_and_help_do_not_load_torch() -> None:
    code = "import sys, dinov3; from dinov3 import cli; cli.build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="trian"):
        dinov3.trian  # noqa: B018
