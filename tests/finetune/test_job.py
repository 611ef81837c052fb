"""A fine-tuning run has everything the trainer has: bit-exact resume, several processes, one line for what is wrong."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.data.errors import DataError
from dinov3.finetune.classifier_file import load_classifier
from dinov3.finetune.config import CLASSIFY, ClassifyConfig
from dinov3.finetune.job import FinetuneJob
from dinov3.finetune.predictions import read_predictions
from dinov3.finetune.results import read_results
from dinov3.models.convnext import ConvNeXt
from dinov3.runs.folder import RunFolder
from dinov3.runs.output import check_output_file
from dinov3.runs.start import Start
from dinov3.system.rows import read_rows
from dinov3.weights.own import write_backbone
from tests.faults.runs import Launcher, final_state
from tests.finetune import tiny

MAIN = "tests.finetune.tiny:main"
METHODS = {
    "fullft": {"augment__preset": "histology", "train__label_smoothing": 0.1, "optim__layerwise_decay": 0.8},
    "lora": {"model__method": "lora", "lora__dropout": 0.1, "model__train_norms_bias": "both"},
    "head_only": {"model__method": "head_only", "optim__lr": 0.1},
}


DAILY = {("lora", "step@4"), ("head_only", "committed@3")}


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        pytest.param(method, fault, marks=() if (method, fault) in DAILY else pytest.mark.nightly)
        for method in METHODS
        for fault in ("step@4", "committed@3")
    ],
)
def test_killed_it_goes_on_bit_for_bit_with_the_same_selection_and_scores(
    runs: Launcher, at: Path, tmp_path: Path, method: str, fault: str
) -> None:
    words = tiny.words(at, **METHODS[method])
    assert runs.run(tmp_path / "whole", main=MAIN, words=words) == [0]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words, fault=fault) == [-9]
    assert runs.run(tmp_path / "killed", main=MAIN, words=words) == [0]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert final_state(killed) == final_state(whole)
    assert read_rows(killed / "evaluation.jsonl") == read_rows(whole / "evaluation.jsonl")
    first, second = (read_results(run / "results.json") for run in (whole, killed))
    assert {**first, "run": ""} == {**second, "run": ""}
    assert [p.name for p in (whole / "selected").iterdir()] == [p.name for p in (killed / "selected").iterdir()]


def test_it_goes_on_when_the_first_weights_are_gone(runs: Launcher, at: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(at / "weights", tmp_path / "copy")
    words = tiny.words(at, model__weights=copy, **METHODS["head_only"])
    assert runs.run(tmp_path / "run", main=MAIN, words=words, fault="step@4") == [-9]
    shutil.rmtree(copy)
    assert runs.run(tmp_path / "run", main=MAIN, words=words) == [0]


@pytest.mark.parametrize(
    "method", [pytest.param(method, marks=() if method == "lora" else pytest.mark.nightly) for method in METHODS]
)
def test_two_processes_score_what_one_does(runs: Launcher, at: Path, tmp_path: Path, method: str) -> None:
    changes = {**METHODS[method], "lora__dropout": 0}
    for ranks in (1, 2):
        words = tiny.words(at, ranks=ranks, **changes)
        assert runs.run(tmp_path / str(ranks), ranks=ranks, main=MAIN, words=words) == [0] * ranks
    one, two = (read_rows(tmp_path / name / "evaluation.jsonl") for name in ("1", "2"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [0, 2, 4, 6, 8]
    for before, after in zip(one, two, strict=True):
        assert before.keys() == after.keys()
        assert np.allclose([*before.values()], [*after.values()], rtol=0, atol=1e-6)


def test_parts_of_a_step_are_one_batch(runs: Launcher, at: Path, tmp_path: Path) -> None:
    whole = tiny.words(at)
    parts = tiny.words(at, train__batch_size_per_gpu=5, train__gradient_accumulation_steps=2)
    for name, words in (("whole", whole), ("parts", parts)):
        assert runs.run(tmp_path / name, main=MAIN, words=words) == [0]
    one, two = (read_rows(tmp_path / name / "evaluation.jsonl")[-1] for name in ("whole", "parts"))
    assert np.allclose([*one.values()], [*two.values()], rtol=0, atol=1e-5)


def test_what_is_left_is_a_classifier_whose_predictions_are_in_the_table(
    runs: Launcher, at: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = tiny.words(at, evaluation__tta="true", **METHODS["lora"])
    assert runs.run(run, main=MAIN, words=words) == [0]
    results, rows = read_results(run / "results.json"), read_rows(run / "evaluation.jsonl")
    best = max(rows, key=lambda row: (row["val_AUROC"], -row["val_NLL"]))
    assert results["step"] == best["step"]
    assert results["label"] == "LoRA+norms/bias"
    found = read_predictions(run / "predictions.csv")
    assert sorted(found) == [("run", "test"), ("run", "validation")]
    test = results["sets"]["test"]["scores"]["AUROC"]
    assert test["low"] <= test["value"] <= test["high"]
    classifier, about = load_classifier(run)
    assert (about.classes, about.size, about.step) == (2, 16, best["step"])
    assert not [name for name, _ in classifier.named_parameters() if "lora" in name]
    assert {p.name for p in (run / "classifier" / "adapters").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert (run / "roc_pr_reliability.png").read_bytes()[:4] == b"\x89PNG"
    assert runs.run(run, main=MAIN, words=words) == [0]  # finished: it says so and changes nothing
    assert read_results(run / "results.json") == results


def test_a_run_folder_inside_the_images_is_refused(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "more/cat", "more/dog"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.jpg").write_bytes(place.encode())
    cfg = ClassifyConfig()
    cfg.train.dataset_path, cfg.evaluation.validation = str(tmp_path / "train"), str(tmp_path / "more")
    cfg.evaluation.test = None
    with pytest.raises(DataError, match="lies inside the images"):
        _ = FinetuneJob(cfg, RunFolder(tmp_path / "more" / "run")).data


def test_a_job_knows_how_images_are_fed_once_it_is_built_and_keeps_no_model(at: Path, tmp_path: Path) -> None:
    job = FinetuneJob(load_config(None, tiny.words(at), CLASSIFY), RunFolder(tmp_path / "run"))
    with pytest.raises(AssertionError, match="build is called first"):
        _ = job.views
    task, _ = job.build(Start(), torch.device("cpu"))
    assert (job.views.size, job.views.mean) == (16, (0.5, 0.5, 0.5))
    classifier = weakref.ref(task.classifier)
    del task
    gc.collect()
    assert classifier() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"model__method": "fullft"},
        {"model__method": "head_only", "model__train_norms_bias": "both"},
        {"model__method": "lora", "lora__targets": "[pwconv1]"},
    ],
    ids=lambda changes: changes["model__method"],
)
def test_a_convnext_is_saved_scored_and_goes_on(at: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    """Its last norm has two names; its adapters have none in peft."""
    model = ConvNeXt(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    model.init_weights(torch.Generator().manual_seed(0))
    (tmp_path / "weights").mkdir()
    write_backbone(tmp_path / "weights", model, tiny.PREPROCESS | {"size": 32})
    settings = {"model__weights": tmp_path / "weights", "model__size": 32, "optim__epochs": 1, **changes}
    command = ["--output-dir", str(tmp_path / "run")]
    assert tiny.main([*command, *tiny.words(at, **settings)]) == 0
    first = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert tiny.main([*command, *tiny.words(at, **settings | {"optim__epochs": 2})]) == 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert rows[: len(first)] == first
    assert [row["iteration"] for row in rows] == list(range(8)), "it went on"
    assert isinstance(load_classifier(tmp_path / "run")[0].backbone, ConvNeXt)


def test_no_command_writes_over_a_file_of_a_finished_run(runs: Launcher, at: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert runs.run(out, main=MAIN, words=tiny.words(at, **METHODS["head_only"])) == [0]
    own = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert {"results.json", "predictions.csv", "classifier.json", "metrics.jsonl"} <= {path.name for path in own}
    for path in own:
        with pytest.raises(ConfigError, match="belongs to the run"):
            check_output_file(path, "--out")
