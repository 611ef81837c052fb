from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from dinov3 import cli
from dinov3.config.errors import ConfigError
from dinov3.runs.output import check_not_input, check_output_file, check_output_folder, check_results_folder
from tests.train.tiny import overrides

# What each command is told, {} is the place to write to.
COMMANDS = {
    "train": ["--output-dir", "{}", *overrides()],
    "submit": ["--local", "--output-dir", "{}", *overrides()],
    "features": ["--weights", "w", "--data", "Synthetic:n=3", "--out", "{}"],
    "dit": ["extract", "--weights", "w", "--data", "Synthetic:n=3", "--out", "{}"],
    "export": ["w", "--out", "{}/x.pth"],
    "viz": ["pca", "--weights", "w", "--data", "Synthetic:n=3", "--out", "{}/x.png"],
    "report": ["run", "--out", "{}/x.html"],
    "data": ["check", "Synthetic:n=3", "--out", "{}"],
    "eval": ["knn", "--weights", "w", "--train", "Synthetic:n=3", "--out", "{}/x.json"],
    "da3-check": ["da3.enabled=true", "da3.random_init=true", "--out", "{}/x.png"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_below_a_file_is_refused_in_one_line_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(
        json.dumps({"iteration": 0, "samples": 8, "total_loss": 1.0}) + "\n"
    )
    assert cli.main([command, *(word.format("file/new") for word in COMMANDS[command])]) == 74
    option = "--output-dir" if command in ("train", "submit") else "--out"
    wanted = tmp_path / "file/new" if command == "submit" else "file/new"
    assert (
        capfd.readouterr().err == f"error: {option} {wanted}: {tmp_path / 'file'} is not a folder: give another place\n"
    )


def test_a_place_that_cannot_be_written_to_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    advice = r"cannot be written to \(permission denied\): give another place, or change its permissions$"
    with pytest.raises(OSError, match=f"^--out {tmp_path}: {advice}"):
        check_output_folder(tmp_path, "--out")
    with pytest.raises(OSError, match=f"^--out {tmp_path / 'a' / 'b'}: {tmp_path} {advice}"):
        check_output_folder(tmp_path / "a" / "b", "--out")


def test_a_run_in_a_folder_that_is_only_to_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(dir: Path) -> None:
        raise OSError(30, "Read-only file system", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert cli.main(["train", "--output-dir", str(tmp_path), *overrides()]) == 74
    reason = "cannot be written to (read-only file system): give another place, or change its permissions"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: folder {tmp_path}: {reason}"
    assert os.listdir(tmp_path) == []


def test_a_place_that_will_do_is_left_as_it_was(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "a" / "b", "--out")
    check_output_file(tmp_path / "x.png", "--out")
    assert os.listdir(tmp_path) == []


def test_a_folder_where_a_file_is_wanted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"^--out {tmp_path}: is a folder: give the name of a file$"):
        check_output_file(tmp_path, "--out")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder in which a run has begun."""
    folder = tmp_path / "a" / "run"
    for name in ("ckpt/step-00000001/backbone.safetensors", "run_id.json", "results.json", "report.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def test_files_of_a_run_are_not_written_over_and_those_of_commands_are(run: Path, tmp_path: Path) -> None:
    for name in ("ckpt/step-00000001/backbone.safetensors", "results.json"):
        with pytest.raises(ConfigError, match=r"--out: .* belongs to the run"):
            check_output_file(run / name, "--out")
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(ConfigError):
        check_output_file(tmp_path / "link" / "results.json", "--out")
    check_output_file(run / "report.html", "--out")
    check_output_file(run / "small.safetensors", "--out")


def test_results_do_not_go_into_the_folder_of_a_run(run: Path) -> None:
    with pytest.raises(ConfigError, match="is the folder of a run"):
        check_results_folder(run, "--out")
    check_results_folder(run / "scores", "--out")


def test_what_is_read_is_not_written_over(tmp_path: Path, run: Path) -> None:
    (tmp_path / "w").mkdir()
    for path in (tmp_path / "w" / "backbone.safetensors", tmp_path / "file.safetensors", run / "small.safetensors"):
        path.write_text("")
    check_not_input(tmp_path / "w" / "other.safetensors", "--out", tmp_path / "w")
    check_not_input(run / "small.safetensors", "--out", run)
    for out, given in (("w/backbone.safetensors", "w"), ("w/../file.safetensors", "file.safetensors")):
        with pytest.raises(ConfigError, match="is what is read"):
            check_not_input(tmp_path / out, "--out", tmp_path / given)
