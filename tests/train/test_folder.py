from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.data.errors import DataError
from dinov3.train.command import main
from dinov3.train.folder import refuse_missing_images, take_folder
from tests.train.tiny import OVERRIDES

TINY = [f"{key}={value}" for key, value in OVERRIDES.items() if key != "train.dataset_path"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "my photos"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_a_folder_is_all_it_takes_and_the_same_command_continues(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["my photos", *TINY, "evaluation.pictures=false", "train.max_steps=2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "recipe     chosen: 12 to train on, short side 40 px, 3 channels, no classes; " in said
    assert "`dinov3 init 'my photos'` writes it down" in said
    (run,) = (photos.parent / "runs").iterdir()
    assert f"run folder runs/{run.name} (--output-dir takes another)" in said
    assert run.name.startswith("train-20")
    assert main(command) == 0
    assert "finished at step 2" in capsys.readouterr().out
    assert sorted(path.name for path in photos.parent.iterdir()) == ["cache", "my photos", "runs"]


def test_a_folder_that_a_config_gives_is_respected(photos: Path) -> None:
    (photos.parent / "own.yaml").write_text("train: {output_dir: there}\n")
    command = ["--config-file", "own.yaml", *TINY, f"train.dataset_path={photos}", "train.max_steps=1"]
    assert main([*command, "evaluation.pictures=false"]) == 0
    assert (photos.parent / "there" / "metrics.jsonl").exists()
    assert not (photos.parent / "runs").exists()


def test_few_images_are_one_batch(photos: Path) -> None:
    for number in range(5, 12):
        (photos / f"{number}.png").unlink()
    chosen = take_folder(None, [str(photos)])
    assert "train.batch_size_per_gpu=5" in chosen.opts
    assert f"train.dataset_path={photos}" in chosen.opts
    assert chosen.config is None


def test_the_share_of_unreadable_images_that_a_chosen_recipe_allows_is_said(photos: Path) -> None:
    assert "max_bad_frac" not in take_folder(None, [str(photos)]).said
    (photos / "0.png").write_bytes(b"")
    chosen = take_folder(None, [str(photos)])
    assert "data.max_bad_frac=0.172" in chosen.opts
    assert "no classes, 8.3% unreadable (the run goes on with up to 17.2%, data.max_bad_frac); " in chosen.said
    own = take_folder(None, [str(photos), "data.max_bad_frac=0.5"])
    assert "no classes, 8.3% unreadable; " in own.said, "whoever gives a share knows it"


def test_a_recipe_of_ones_own_goes_with_a_folder(photos: Path) -> None:
    chosen = take_folder(Path("own.yaml"), ["optim.lr=1", str(photos)])
    assert chosen == (Path("own.yaml"), [f"train.dataset_path={photos}", "optim.lr=1"], "")


@pytest.mark.parametrize("word", ["Synthetic:n=40:size=40", "~/no such", "./x", "ImageFolder:root=/x"])
def test_a_data_set_too(word: str) -> None:
    assert take_folder(Path("own.yaml"), [word]).opts == [f"train.dataset_path={word}"]


def test_images_given_twice_are_refused(photos: Path) -> None:
    for more in (["/other"], ["train.dataset_path=/other"]):
        with pytest.raises(ConfigError, match="images are given twice"):
            take_folder(None, [str(photos), *more])


@pytest.mark.parametrize("make", ["nothing", "an empty folder", "texts only"])
def test_images_that_are_not_there_are_refused_before_torch_is_loaded(make: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    if make != "nothing":
        (folder / "below").mkdir(parents=True)
    if make == "texts only":
        (folder / "below" / "notes.md").write_text("none")
    script = "import sys; from dinov3.train.command import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    out = tmp_path / "run"
    for words in ([str(folder)], ["--config-file", "photos_vits", f"train.dataset_path={folder}"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "--output-dir", str(out), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 78, done.stderr
        assert str(folder) in done.stderr
        assert done.stderr.count("\n") == 1
        assert not out.exists()


def test_no_image_of_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        take_folder(None, [str(tmp_path)])


@pytest.mark.parametrize("text", ["ImageFolder:root=nothing", "LMDB:root=nothing", "FileList:path=nothing.csv"])
def test_a_named_data_set_that_is_not_there_is_refused_as_early(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"nothing.*: there is no such file or folder"):
        refuse_missing_images(load_config(None, [f"train.dataset_path={text}"]))
