from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3 import cli
from tests.data.tiffs import tiff
from tests.train.tiny import OVERRIDES

CROPS = [f"{k}={v}" for k, v in OVERRIDES.items() if k.startswith(("crops.", "student."))]
SCENES = "Synthetic:n=20:size=64"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine photographs of noise and one text."""
    root = tmp_path / "set"
    root.mkdir()
    rng = np.random.default_rng(0)
    for n in range(9):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((60, 50), Image.Resampling.BICUBIC).save(root / f"{n}.jpg")
    (root / "page.jpg").write_text("<html>")
    return root


def test_a_dataset_is_described_in_text_json_and_a_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["data", "check", str(folder), "--out", str(out), "--workers", "0", *CROPS]  # overrides after options
    assert cli.main([*command, "train.batch_size_per_gpu=4"]) == 0
    text = capsys.readouterr().out
    assert "10 images" in text
    assert f"{folder}/page.jpg: UnidentifiedImageError" in text
    report = json.loads((out / "report.json").read_text())
    assert (report["readable"], report["formats"], report["equal_files"]) == (9, {"JPEG RGB": 9}, [])
    assert report["unreadable"][0]["name"] == f"{folder}/page.jpg"
    assert Image.open(out / "crops.png").size[0] > 500
    assert sorted(path.name for path in out.iterdir()) == ["crops.png", "report.json"]


def test_too_many_unreadable_images_fail_only_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "check", str(folder), "--workers", "0"]
    assert cli.main(command) == 0
    assert cli.main([*command, "--strict", "data.max_bad_frac=0.2"]) == 0
    capsys.readouterr()
    assert cli.main([*command, "--strict"]) == 74
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith(f"error: {folder}: 10.00% of the images are unreadable, data.max_bad_frac is 0.01")
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["{}/nothing"], "there is no such folder"),
        (["{}"], "contains no images"),
        (["Sinthetic:n=4"], "there is no dataset 'Sinthetic'"),
        ([SCENES, "--limit", "0"], "--limit 0: must be at least 1"),
        ([SCENES, "crops.globl_crops_size=8"], "unknown key"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_78(
    words: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["data", "check", words[0].format(tmp_path), *words[1:], "--out", str(out)]) == 78
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_known_before_anything_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["data", "check", str(folder), "--out", str(tmp_path / "file")]) == 74
    assert "reading" not in capsys.readouterr().err


def test_a_sample_is_looked_at_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", SCENES, "--limit", "8", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "20 images, 8 of them looked at" in out
    assert "labels" in out


def test_a_picture_that_cannot_be_drawn_is_explained_and_the_report_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["student.in_chans=5", "crops.rgb_mean=[0,0,0,0,0]", "crops.rgb_std=[1,1,1,1,1]"]
    assert cli.main(["data", "check", SCENES, "--out", str(tmp_path), "--workers", "0", *words]) == 0
    assert "no picture of the crops: the images have 3 channels" in capsys.readouterr().out
    assert (tmp_path / "report.json").exists()


def test_a_word_that_is_no_override_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["data", "check", SCENES, "--workers", "0", "--fast"])
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_a_list_of_data_sets_is_examined_as_training_would_open_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = f"[{{path: {folder}, weight: 1}}, {{path: 'Synthetic:n=20:size=64', weight: 3}}]"
    out = tmp_path / "out"
    assert cli.main(["data", "check", listed, "--workers", "0", "--out", str(out), *CROPS]) == 0
    assert "30 images" in capsys.readouterr().out
    assert json.loads((out / "report.json").read_text())["readable"] == 29
    assert (out / "crops.png").exists()


def test_the_report_is_written_before_it_is_printed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console that cannot show a character must not cost hours of reading."""
    (folder / "größe.jpg").write_text("<html>")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(UnicodeEncodeError):
        cli.main(["data", "check", str(folder), "--out", str(tmp_path / "out"), "--workers", "0", *CROPS])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {Path(bad["name"]).name for bad in report["unreadable"]} == {"page.jpg", "größe.jpg"}


def test_a_report_inside_the_images_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(folder), "--out", str(folder / "check"), "--workers", "0"]) == 78
    assert "lies inside the images" in capsys.readouterr().err
    assert not (folder / "check").exists()


def test_values_in_use_alpha_and_what_is_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    root.mkdir()
    gray = np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16)
    gray[0, :2] = 0, 4080
    Image.fromarray(np.minimum(gray, 4080)).save(root / "a.png")
    height = gray.astype(np.float32)
    height[:3] = -9999
    (root / "b.tif").write_bytes(tiff(height))
    four = np.random.default_rng(0).integers(0, 255, (48, 64, 4), dtype=np.uint8)
    four[:, :, 3] = 51
    (root / "c.tif").write_bytes(tiff(four, 2, t338=2))
    for n in range(34):
        (root / f"{n}.heic").write_bytes(b"x")
    (root / "d\x1b[2J.heic").write_bytes(b"x")
    (root / "e\x1b[2J\u202e.jpg").write_bytes(b"x")
    assert cli.main(["data", "check", str(root), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "left out     35 .heic left out: not a format read here" in text
    assert "PNG I;16: 1 image of values from 0 to 4080" in text
    assert "data.value_range=[0, 4095]" in text
    assert "TIFF F: 1 image of values from -9999 to " in text
    assert "alpha        1 image, 20% opaque on average, laid on white" in text
    assert r"e\x1b[2J\u202e.jpg" in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert cli.main(["data", "check", str(root), "--workers", "0", "data.value_range=[0,4095]"]) == 0
    assert "data.value_range: 0 is black, 4095 white" in capsys.readouterr().out
