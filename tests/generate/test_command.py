from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.cli import main
from dinov3.weights.own import write_backbone
from tests.generate.sets import backbone, files, write_images


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """What every extraction is told."""
    (tmp_path / "weights").mkdir()
    write_backbone(tmp_path / "weights", backbone(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 64})
    images = write_images(tmp_path / "images")
    return ["dit", "extract", "--weights", str(tmp_path / "weights"), "--data", str(images), "--side", "64"]


def test_extract_then_verify_and_a_second_time_nothing_is_computed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main([*words, "--out", out]) == 0
    first = capsys.readouterr()
    assert "10 images in" in first.out
    assert "(computed)" in first.out
    assert "left out, too long: 2" in first.out
    assert main([*words, "--out", out]) == 0
    assert "(already there)" in capsys.readouterr().out
    assert main(["dit", "verify", out]) == 0
    assert "10 images in" in capsys.readouterr().out
    tar = min(Path(out).rglob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:1000])
    assert main(["dit", "verify", out]) == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "64x64 (grid 4 x 4):" in text
    assert "left out: 0 unreadable, 2 too long, 0 incomplete; nothing was written" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--side", "8"], "a side of 8 px: at least 16"),
        (["--max-stretch", "0"], "at least 1"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--shard-mb", "0"], "raise --shard-mb"),
        (["--batch-size", "0"], "at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_no_shards(
    words: list[str], tmp_path: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "out"), *more]) == 78
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == {}


def test_at_native_sizes_each_image_keeps_its_own(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--out", str(tmp_path / "out"), "--side", "native", "--max-stretch", "1.4"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("bucket_*")} == {
        *("bucket_64x64", "bucket_96x64", "bucket_64x96", "bucket_80x80", "bucket_304x64")
    }
