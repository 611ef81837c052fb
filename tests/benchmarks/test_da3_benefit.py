"""The pieces of the benchmark of DA3 distillation and Gram anchoring, at the smallest size: a teacher, a student of it, probes, the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import da3_teacher
from benchmarks.da3_benefit import ARMS, BASE, FIGURES, STUDENT, main, probed
from benchmarks.da3_teacher import FOLDER, MEAN, STD, DepthReader, Probed, log_cells
from benchmarks.learning import DENSE
from benchmarks.over_seeds import table_of_arms
from dinov3.config.blocks.loss import Da3Config
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.eval.in_python import evaluate
from dinov3.features.extract import FeatureExtractor, load
from dinov3.features.preprocess import Preprocess
from dinov3.models.da3 import VARIANTS, DA3Encoder, DA3Spec
from dinov3.runs.step_folders import newest_valid
from dinov3.system.rows import append_row, read_rows
from dinov3.teachers.da3_backbone import build_da3_backbone
from dinov3.train.command import main as train
from tests.train.tiny import command

TINY = DA3Spec(32, 2, 2, alt_start=1)
SCENES, QUICK = "Synthetic:n=10:size=32", ["steps=2", "warmup=0", "batch=2"]


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """An official folder, after two steps."""
    monkeypatch.setattr(da3_teacher, "SPEC", TINY)
    monkeypatch.setitem(VARIANTS, "small", TINY)
    words = ["train.pictures=8", "train.side=32", "train.crop=28", "train.batch_size_per_gpu=4", "train.num_workers=1"]
    assert da3_teacher.main(["--output-dir", str(tmp_path / "teacher"), *words, "optim.epochs=1"]) == 0
    newest = newest_valid(tmp_path / "teacher")
    assert newest is not None
    return newest / FOLDER


def test_a_teacher_made_here_teaches_by_its_path_and_both_can_be_probed(teacher: Path, tmp_path: Path) -> None:
    backbone, width = build_da3_backbone(Da3Config(variant="small", ckpt_path=str(teacher), dtype="fp32"))
    before = DA3Encoder(TINY)
    before.init_weights(torch.Generator().manual_seed(0))
    assert width == 32
    assert not torch.equal(
        backbone.backbone.pretrained.patch_embed.proj.weight, before.pretrained.patch_embed.proj.weight
    )
    of_teacher = probed(
        FeatureExtractor(Probed(backbone).eval(), Preprocess(MEAN, STD, 14, 28), device="cpu"), SCENES, QUICK
    )

    on = {"da3.enabled": "true", "da3.variant": "small", "da3.ckpt_path": teacher, "da3.projector_hidden_dim": 16}
    assert train(command(tmp_path / "student", **on, **{"train.max_steps": 1})) == 0
    (row,) = read_rows(tmp_path / "student" / "metrics.jsonl")
    assert 0 < row["da3_mim_loss"] < 2
    of_student = probed(load(tmp_path / "student", size=32, device="cpu"), SCENES, QUICK)
    for found in (of_teacher, of_student):
        assert found["depth_rmse"] > 0
        assert 0 <= found["seg_miou"] <= 1
        assert 0 <= found["match_recall"] <= 1
    assert of_teacher != of_student
    for task, (_, score) in DENSE.items():  # what benchmarks/learning.py --dense reads
        found = evaluate(tmp_path / "student", SCENES, task=task, size=32, words=QUICK, cache=tmp_path / "features")
        assert found["scores"][0][score] >= 0


def test_a_cell_of_the_readers_answer_lies_where_its_patch_does() -> None:
    encoder = DA3Encoder(TINY)
    encoder.init_weights(torch.Generator().manual_seed(0))
    reader = DepthReader(encoder)
    images = torch.zeros(1, 3, 28, 56)
    with torch.no_grad():
        tokens = encoder(images)  # [1, 2 x 4, D]
        said, each = reader(images), reader.read(tokens)  # [1, 1, 14, 28], [1, 8, 49]
    assert torch.equal(said[0, 0, 7:14, 21:28].flatten(), each[0, 7])
    depths = torch.ones(1, 28, 56)
    depths[0, 14:16, 2:4] = torch.e
    assert log_cells(depths, (14, 28)).nonzero().tolist() == [[0, 0, 7, 1]]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_config_that_can_be_used(arm: str) -> None:
    words = [word.format(teacher="weights") for word in ARMS[arm]]
    cfg = load_config(config_file("demo_cpu"), [*STUDENT, *words])
    assert cfg.da3.enabled == ("da3" in arm)
    assert cfg.gram.use_loss == ("gram" in arm)


def rows() -> list[dict[str, object]]:
    """Three seeds of two arms; with the teacher the error is 1.0, 1.5 and 2.0 lower."""
    scores = {"seg_miou": 0.5, "seg_knn_miou": 0.5, "match_recall": 0.5, "knn_20": 0.5}
    without = [{"arm": "without", "seed": seed, "depth_rmse": 8.0 + seed, **scores} for seed in range(3)]
    return [*without, *[{**row, "arm": "da3", "depth_rmse": 7.0 + 0.5 * row["seed"]} for row in without]]


def test_what_is_measured_already_is_not_computed_again_and_other_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"keys": [], "teacher_keys": [], "scenes": "Synthetic:n=10", "labelled": 600, "probe": []}
    for row in rows():
        append_row(tmp_path / "results.jsonl", {**row, **settings})
    main(["--out", str(tmp_path), "--arms", "without", "da3", "--scenes", "Synthetic:n=10"])
    assert capsys.readouterr().out == table_of_arms(rows(), FIGURES, [*ARMS], BASE) + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"], "no teacher was trained"
    with pytest.raises(SystemExit, match="results of other settings"):
        main(["--out", str(tmp_path), "--scenes", "Synthetic:n=11"])
