from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.eval.command import TASKS
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and three classes that any features tell apart: dark, gray, bright."""
    root = tmp_path_factory.mktemp("eval")
    model = DinoVisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    model.init_weights(torch.Generator().manual_seed(0))
    (root / "weights").mkdir()
    write_backbone(root / "weights", model.eval(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 16})
    rng = np.random.default_rng(0)
    for split, names in (("train", ("bright", "dark", "gray")), ("test", ("dark", "gray"))):
        for name in names:
            (root / split / name).mkdir(parents=True)
            level = {"dark": 20, "gray": 140, "bright": 220}[name]
            for i in range(12):
                pixels = (level + rng.integers(-3, 4, (16, 16, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def evaluate(place: Path, task: str, *more: str, test: bool = True) -> int:
    given = ["--test", str(place / "test")] if test else []
    weights = ["--weights", str(place / "weights"), "--train", str(place / "train"), "--cache", str(place / "cache")]
    return main(["eval", task, *weights, *given, *more])


@pytest.mark.parametrize("task", ["knn", "linear", "logreg"])
@pytest.mark.parametrize("test", [True, False])
def test_plain_classes_are_told_apart_also_when_the_test_set_lacks_one(place: Path, task: str, test: bool) -> None:
    out = place / f"{task}.json"
    neighbours = ["--k", "5"] if task == "knn" else []
    assert evaluate(place, task, *neighbours, "--out", str(out), test=test) == 0
    report = json.loads(out.read_text())
    assert report["scores"][0]["accuracy"] >= 0.99
    assert report["images"]["test"] == (24 if test else 6)


def test_retrieval_finds_the_class_first(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(place, "retrieval", "--pool", "mean") == 0
    assert "recall@1 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "more", "words"),
    [
        ("knn", ["--k", "5", "0"], "--k 0: at least 1"),
        ("knn", ["--temperature", "0"], "--temperature 0: above 0"),
        ("linear", ["--learning-rates", "nan"], "--learning-rates nan"),
        ("linear", ["--epochs", "0"], "--epochs 0"),
    ],
)
def test_a_number_without_a_meaning_is_one_line(
    place: Path, task: str, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(place, task, *more) == 78
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_more_neighbours_than_images_are_reported_as_what_they_are(place: Path) -> None:
    out = place / "many.json"
    assert evaluate(place, "knn", "--k", "20", "100", "200", "--out", str(out)) == 0
    assert [row["k"] for row in json.loads(out.read_text())["scores"]] == [20, 36]


def test_one_class_alone_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place / "train" / "dark", tmp_path / "dark")
    assert (
        main(
            [
                "eval",
                "linear",
                "--weights",
                str(place / "weights"),
                "--train",
                str(tmp_path),
                "--cache",
                str(place / "cache"),
            ]
        )
        == 78
    )
    assert "one class" in capsys.readouterr().err


def test_an_unlabelled_folder_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = str(place / "train" / "dark")
    assert main(["eval", "knn", "--weights", str(place / "weights"), "--train", flat]) == 78
    error = capsys.readouterr().err
    assert "has no label" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--train", "--test"])
def test_images_without_a_class_among_others_are_counted_and_one_is_named(
    place: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    some = f"ImageFolder:root={place / 'train'}:class_of=(bright|dark)"
    words = ["--train", some] if option == "--train" else ["--train", str(place / "train"), "--test", some]
    assert main(["eval", "knn", "--weights", str(place / "weights"), *words]) == 78
    name = place / "train" / "gray" / "0.png"
    said = f"error: {some}: 12 of 36 images have no label, for example {name}: evaluation needs"
    assert capsys.readouterr().err == f"{said} class subfolders or labels for every image\n"


def test_scoring_on_the_training_images_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = str(place / "train")
    assert main(["eval", "knn", "--weights", str(place / "weights"), "--train", train, "--test", train]) == 78
    assert "find itself" in capsys.readouterr().err


@pytest.fixture
def torn(place: Path, tmp_path: Path) -> Path:
    """Test images of which one of 24 cannot be read, and two are training images."""
    test = shutil.copytree(place / "test", tmp_path / "torn")
    file = test / "dark" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    for name in ("0.png", "1.png"):
        shutil.copy(place / "train" / "gray" / name, test / "gray" / name)
    return test


def test_images_that_no_score_is_of_are_said_beside_it_and_kept(
    place: Path, torn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--test", str(torn), "--k", "3", "--out", str(tmp_path / "out.json")]
    assert evaluate(place, "knn", *words, test=False) == 74
    assert "allow more than 0.01 (data.max_bad_frac, or --max-bad-frac of a command)" in capsys.readouterr().err
    assert evaluate(place, "knn", *words, "--max-bad-frac", "0.1", test=False) == 0
    said, report = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    unread, known = report["notes"]
    assert unread.startswith(f"note: {torn}: 1 image is unreadable and in no score; the first, {torn}/dark/3.png: ")
    assert known == "note: 2 of 23 test images have exactly the features of a training image: the same images?"
    assert said.endswith(f"{unread}\n{known}\n")
    assert evaluate(place, "knn", "--k", "3") == 0
    assert "note:" not in capsys.readouterr().out


def test_every_task_explains_its_own_options_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for task in TASKS:
        with pytest.raises(SystemExit):
            main(["eval", task, "--help"])
        said[task] = capsys.readouterr().out
    own = {"--k": {"knn"}, "--temperature": {"knn"}, "--learning-rates": {"linear"}, "--epochs": {"linear"}}
    for option, tasks in {
        **own,
        "--seed": {"linear", "logreg"},
        "--train": set(TASKS),
        "--weights": set(TASKS),
    }.items():
        assert {task for task, text in said.items() if f" {option} " in text} == tasks, option
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    text = capsys.readouterr().out
    assert all(f"    {task}" in text for task in TASKS)
