"""``dinov3 init`` on folders of every kind: the YAML loads, says why, and trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3 import cli
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.finetune.classifier_file import load_classifier
from dinov3.finetune.config import CLASSIFY
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from dinov3.train.folder import take_folder
from tests.finetune.tiny import write_weights

# What a test changes of a YAML that is run: nothing that the rules decide about images.
TWO_STEPS = (
    *("train.max_steps=2", "train.num_workers=0", "evaluation.pictures=false", "evaluation.knn.max_train=40"),
    "train.batch_size_per_gpu=4",
)


def picture(size: int, seed: int, top: int = 256) -> np.ndarray:
    shape = (size, size + 8, 3) if top == 256 else (size, size + 8)
    return np.random.default_rng(seed).integers(0, top, shape).astype(np.uint8 if top == 256 else np.uint16)


def folder(path: Path, number: int, size: int, *, classes: int = 0, top: int = 256, broken: int = 0) -> Path:
    for index in range(number):
        file = path / (f"class {index % classes}" if classes else ".") / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(size, index, top)).save(file)
        if broken and index % broken == 0:
            file.write_bytes(file.read_bytes()[:60])
    return path


def tars(path: Path) -> Path:
    import io
    import tarfile

    path.mkdir()
    for part, number in (("train", 60), ("test", 20)):
        with tarfile.open(path / f"{part}-00000.tar", "w") as tar:
            for index in range(number):
                out = io.BytesIO()
                Image.fromarray(picture(32, index)).save(out, "png")
                for suffix, content in (("png", out.getvalue()), ("cls", str(index % 2).encode())):
                    about = tarfile.TarInfo(f"{index:05}.{suffix}")
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
    return path


def four_channels(path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["images"] = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 4), dtype=np.uint8)
    return path


MAKE = {
    "shards with classes": lambda at: tars(at / "shards"),
    "photographs": lambda at: folder(at / "photos", 20, 140),
    "tiny images with classes": lambda at: folder(at / "tiny", 60, 32, classes=3),
    "16-bit grey": lambda at: folder(at / "grey", 20, 130, top=4096),
    "four channels in HDF5": lambda at: four_channels(at / "four.h5"),
    "one of twenty is broken": lambda at: folder(at / "broken", 40, 130, broken=20),
}


def check(kind: str, cfg: Config, data: Path) -> None:
    """What must be in the YAML of each."""
    sizes = cfg.student.patch_size, cfg.crops.global_crops_size
    tests = cfg.evaluation.knn.test
    if kind == "shards with classes":
        assert (sizes, tests) == ((4, 32), f"Tar:root={data}/test-*.tar")
        assert cfg.train.dataset_path == f"Tar:root={data}/train-*.tar"
    if kind == "photographs":
        assert (sizes, tests) == ((16, 96), None)
    if kind == "tiny images with classes":
        assert (sizes, tests) == ((4, 32), f"HeldOut:of={data}:part=test")
    assert cfg.data.value_range == ([0, 4095] if kind == "16-bit grey" else None)
    assert (cfg.student.in_chans, len(cfg.crops.rgb_mean)) == ((4, 4) if "four" in kind else (3, 3))
    assert cfg.data.max_bad_frac == pytest.approx(0.105 if "broken" in kind else 0.01)


@pytest.mark.parametrize("kind", MAKE)
def test_the_yaml_of_each_kind_of_images_loads_and_trains(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = MAKE[kind](tmp_path)
    assert cli.main(["init", data.name, "--out", "own.yaml"]) == 0
    assert "next       dinov3 train --config-file own.yaml" in capsys.readouterr().out
    cfg = load_config(tmp_path / "own.yaml")
    check(kind, cfg, data)
    assert cfg.train.batch_size_per_gpu <= 64
    assert main(["--config-file", "own.yaml", "--output-dir", "run", *TWO_STEPS]) == 0
    assert [row["iteration"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [0, 1]


def test_training_on_a_folder_makes_the_choices_that_init_writes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = folder(tmp_path / "tiny", 60, 32, classes=3)
    assert cli.main(["init", str(data)]) == 0
    chosen = take_folder(None, [str(data)])
    assert load_config(None, chosen.opts) == load_config(tmp_path / "tiny.yaml")


def test_every_group_of_keys_has_its_reason(tmp_path: Path) -> None:
    data = folder(tmp_path / "tiny", 60, 32, classes=3)
    assert cli.main(["init", str(data), "--out", str(tmp_path / "own.yaml")]) == 0
    lines = (tmp_path / "own.yaml").read_text().splitlines()
    blocks = [number for number, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
    assert len(blocks) >= 8
    assert all(lines[number + 1].startswith("  # ") for number in blocks)


@pytest.mark.parametrize("parts", [(".",), ("train", "test"), ("train", "val", "test")], ids="-".join)
def test_a_classifier_of_a_folder_selects_on_images_it_does_not_train_on(
    parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights, data = write_weights(tmp_path / "weights"), tmp_path / "tiny"
    for number, part in enumerate(parts):
        folder(data / part, 60 + number, 16, classes=3)
    assert cli.main(["init", "tiny", "--goal", "finetune", "--weights", "weights", "--out", "own.yaml"]) == 0
    cfg = load_config(tmp_path / "own.yaml", (), CLASSIFY)
    assert (cfg.model.method, cfg.model.weights) == ("head_only", str(weights))
    found = cfg.train.dataset_path, cfg.evaluation.validation, cfg.evaluation.test
    held = data / "train" if len(parts) == 2 else data
    fifths = f"HeldOut:of={held}:part=train", f"HeldOut:of={held}:part=test"
    test = None if len(parts) == 1 else str(data / "test")
    assert found == ((str(data / "train"), str(data / "val"), test) if len(parts) == 3 else (*fifths, test))
    words = ["optim.epochs=1", "optim.warmup_steps=0", "train.num_workers=0", "evaluation.bootstrap=0"]
    assert cli.main(["finetune", "--config-file", "own.yaml", "--output-dir", "run", *words]) == 0
    assert load_classifier(tmp_path / "run")[1].classes == 3


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["init", *words]) == 78
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_what_cannot_be_meant_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = folder(tmp_path / "images", 3, 40)
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "bad", 2, 40, broken=1)
    labelled = folder(tmp_path / "labelled", 30, 16, classes=3)
    before = sorted(tmp_path.iterdir())
    assert "--weights: is missing" in refused([str(data), "--goal", "continue"], capsys)
    assert "not used by --goal pretrain" in refused([str(data), "--weights", "x.pth"], capsys)
    tuned = [str(data), "--goal", "finetune", "--weights", "nowhere.pth"]
    assert "two classes or more, with ten images each" in refused(tuned, capsys)
    assert "--shape-only: is for --goal pretrain" in refused([*tuned, "--shape-only"], capsys)
    assert "--plan: counts pretraining only" in refused([*tuned, "--plan"], capsys)
    assert "nowhere.pth: no such file" in refused([str(labelled), *tuned[1:]], capsys)
    assert "nowhere.pth: no such file" in refused([str(data), "--goal", "distill", "--weights", "nowhere.pth"], capsys)
    folder(tmp_path / "labelled" / "test", 10, 16)
    assert "test is one of its classes" in refused([str(labelled), *tuned[1:]], capsys)
    assert "contains no images" in refused(["empty"], capsys)
    assert "none of 2 images can be read" in refused(["bad"], capsys)
    assert "no such path" in refused(["nowhere"], capsys)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "images.yaml").write_text("mine")
    assert "is there already" in refused([str(data)], capsys)
    assert (tmp_path / "images.yaml").read_text() == "mine"


def init(at: Path, *words: str) -> int:
    data = at / "photos" if (at / "photos").exists() else folder(at / "photos", 20, 140)
    return cli.main(["init", str(data), "--out", str(at / "made.yaml"), *words])


def test_values_of_two_kinds_have_no_range_in_common(tmp_path: Path) -> None:
    data = folder(tmp_path / "mixed", 10, 130, top=4096)
    for index in range(10):
        values = np.random.default_rng(index).random((130, 138), dtype=np.float32)
        Image.fromarray(values).save(data / f"float {index}.tiff")
    assert cli.main(["init", str(data), "--out", str(tmp_path / "mixed.yaml")]) == 0
    assert load_config(tmp_path / "mixed.yaml").data.value_range is None


def test_shape_only_wants_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = four_channels(tmp_path / "four.h5")
    words = [str(data), "--out", str(tmp_path / "four.yaml"), "--shape-only"]
    assert "--shape-only: changes colours of three channels, these images have 4" in refused(words, capsys)
    assert not (tmp_path / "four.yaml").exists()


def test_shape_only_changes_colours_and_says_so(tmp_path: Path) -> None:
    data = folder(tmp_path / "tiny", 60, 32)
    for name, words in (("plain", []), ("shape", ["--shape-only"])):
        assert cli.main(["init", str(data), "--gpus", "0", "--out", str(tmp_path / f"{name}.yaml"), *words]) == 0
    plain, shape = (load_config(tmp_path / f"{name}.yaml") for name in ("plain", "shape"))
    assert (plain.crops.hue, plain.crops.grayscale_prob, plain.crops.color_jitter_prob) == (None, None, None)
    assert (shape.crops.hue, shape.crops.grayscale_prob, shape.crops.color_jitter_prob) == (0.5, 0.5, 1.0)
    shape.crops = plain.crops
    assert shape == plain, "nothing else"
    assert "--gpus 0 --shape-only`" in " ".join((tmp_path / "shape.yaml").read_text().replace("#", "").split())


def test_a_card_that_is_not_here_decides_the_batch_and_the_cost_is_one_command_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--gpus", "4", "--card", "l4") == 0
    said = capsys.readouterr().out
    assert "4 x l4, 22 GB" in said
    assert f"dinov3 plan --config-file {tmp_path / 'made.yaml'} --gpus 4 --card l4 (not counted now" in said
    assert "--gpus 4 --card l4`" in " ".join((tmp_path / "made.yaml").read_text().replace("# ", "").split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpus", "-1"], "--gpus: -1: 0 for a CPU"),
        (["--gpus", "8"], "--card: is missing: there is no GPU here"),
        (["--gpus", "0", "--card", "h100"], "--card: contradicts --gpus 0"),
    ],
)
def test_a_machine_that_cannot_be_meant_is_refused_before_anything_is_written(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert init(tmp_path, *words) == 78
    assert told in capsys.readouterr().err
    assert not (tmp_path / "made.yaml").exists()


def test_the_plan_of_what_was_written_is_printed_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("dinov3.plan.command.execute", lambda args: asked.append(args) or 0)
    assert init(tmp_path, "--gpus", "0", "--plan") == 0
    (args,) = asked
    assert (args.config_file, args.gpus, args.card) == (tmp_path / "made.yaml", 1, None)
    assert "not counted now" not in capsys.readouterr().out
