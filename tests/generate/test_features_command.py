from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.cli import main
from dinov3.weights.own import write_backbone
from tests.generate.sets import backbone, files, write_images


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "weights").mkdir()
    write_backbone(tmp_path / "weights", backbone(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 64})
    return ["--weights", str(tmp_path / "weights"), "--data", str(write_images(tmp_path / "images"))]


def test_the_webdataset_layout_is_what_dit_extract_writes_at_native_sizes(words: list[str], tmp_path: Path) -> None:
    ours = ["features", *words, "--pool", "patches", "--layout", "webdataset", "--max-side", "96"]
    assert main([*ours, "--out", str(tmp_path / "features")]) == 0
    theirs = ["dit", "extract", *words, "--side", "native", "--max-side", "96", "--max-stretch", "1e9"]
    assert main([*theirs, "--out", str(tmp_path / "dit")]) == 0
    assert files(tmp_path / "features") == files(tmp_path / "dit")
    assert main(["dit", "verify", str(tmp_path / "features")]) == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "needs --pool patches"),
        (["--pool", "patches", "--size", "64"], "needs --size native"),
        (["--pool", "patches", "--dtype", "fp32"], "needs --dtype fp16"),
    ],
)
def test_what_the_layout_does_not_have_is_one_line(
    words: list[str], tmp_path: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", *words, "--layout", "webdataset", "--out", str(tmp_path / "out"), *more]) == 78
    assert told in capsys.readouterr().err


def test_without_it_the_command_is_as_before(words: list[str], tmp_path: Path) -> None:
    assert main(["features", *words, "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out").glob("*/manifest.json"))
