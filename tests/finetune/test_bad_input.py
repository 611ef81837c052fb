"""What cannot be used is one line that names it, exit code 78, and an untouched folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dinov3.cli import main as dinov3
from dinov3.data.sources.pcam import FILE
from dinov3.finetune.classifier import Classifier, choose_what_trains
from dinov3.finetune.classifier_file import About, write_classifier
from dinov3.finetune.config import AdapterConfig, ClassifierConfig
from dinov3.weights.provenance import Facts
from tests.finetune import tiny


def file_of(at: Path, split: str, part: str) -> Path:
    return at / "pcam" / FILE.format(split=split, part=part)


def labels(at: Path, split: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = file_of(at, split, "y")
    with h5py.File(path) as file:
        y = file["y"][...]
    path.unlink()
    with h5py.File(path, "w") as file:
        file["y"] = change(y)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing file": (lambda at: file_of(at, "train", "y").unlink(), "train_y.h5: there is no such file"),
    "a packed file": (
        lambda at: file_of(at, "train", "x").rename(file_of(at, "train", "x").with_name("a")), "there is no such file",
    ),
    "a truncated file": (lambda at: cut(file_of(at, "valid", "x")), "is not an HDF5 file that can be read"),
    "a pair that is none": (lambda at: labels(at, "train", lambda y: y[:-3]), "there are 40 images"),
    "a label outside": (lambda at: labels(at, "valid", lambda y: y + 5), "evaluation.validation allows 0 to 1"),
    "one class in validation": (lambda at: labels(at, "valid", lambda y: y * 0), "are of class 0: give images of every"),
    "one class in training": (lambda at: labels(at, "train", lambda y: y * 0), "nothing to tell apart"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, problem = DATA[case]
    copy = shutil.copytree(at, tmp_path / "at")
    spoil(copy)
    refused(tiny.words(copy), tmp_path / "run", capsys, problem)


KEYS = {
    "weights": ({"model__weights": "/nowhere"}, "/nowhere: no such file"),
    "size": ({"model__size": 20}, "model.size: 20 is not a multiple of the patch of 8 px: use 16 or 24"),
    "classes": ({"train__classes": 2, "optim__warmup_steps": 8}, "optim.warmup_steps: 8 steps, the run has 8"),
    "pretraining's": ({"optim__patch_embed_lr_mult": 0.2}, "optim.patch_embed_lr_mult"),
    "an idle one": ({"optim__lora_lr": 0.1}, "optim.lora_lr: does nothing without model.method=lora"),
    "targets": ({"model__method": "lora", "lora__targets": "[query]", "lora__mlp": "false"}, "lora.targets"),
    "task": ({"task": "knit"}, "task: 'knit': choose classify"),
    "select": ({"evaluation__select": "accuracy"}, "evaluation.select"),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, problem = KEYS[case]
    refused(tiny.words(at, **changes), tmp_path / "run", capsys, problem)


def test_the_same_images_twice(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(at / "pcam", tmp_path / "copy")
    words = tiny.words(at, evaluation__test=f"PCam:root={copy}:split=valid")
    refused(words, tmp_path / "run", capsys, "evaluation.test: ")


def test_adapters_and_heads_of_another_backbone(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = ClassifierConfig(method="lora")
    for name, width, depth in (("wide", 32, 2), ("deep", 16, 3)):
        classifier = Classifier(tiny.backbone(embed_dim=width, depth=depth), 2, "cls")
        choose_what_trains(classifier, lora, AdapterConfig(), 0)
        (tmp_path / name).mkdir()
        about = About(2, "cls", 16, False, "LoRA", "w", 0)
        write_classifier(tmp_path / name, classifier, about, Facts(tiny.PREPROCESS))
    words = tiny.words(at, model__head=tmp_path / "wide")
    refused(words, tmp_path / "run", capsys, "it is of another backbone, pool or number of classes")
    words = tiny.words(at, model__method="lora", model__adapters=tmp_path / "deep" / "adapters")
    refused(words, tmp_path / "run", capsys, "does not fit this backbone")


def test_words_that_do_not_go_together(at: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, problem in (
        (["report", "--tta", "a"], "--tta: does nothing with `report`"),
        (["evaluate", str(tmp_path)], "needs one classifier, --data and --out"),
        (["model.weights=a", "--out", "b"], "--out: is for `report`, `evaluate` or `export`"),
        (["report", str(tmp_path)], "results.json: cannot be read"),
    ):
        assert dinov3(["finetune", *words]) == (78 if "results.json" in problem else 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert problem in error


def refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str], problem: str) -> None:
    assert dinov3(["finetune", "--output-dir", str(out), *words]) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert problem in error
    assert not out.exists()
