"""Continued training: what stands still, what trains, and what is measured against the start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.eval.online.knn import Knn
from dinov3.models.lora import merged_parameters
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders, step_of
from dinov3.system.rows import read_rows
from dinov3.train.adapters import prepare_to_continue
from dinov3.train.command import main
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.weights.own import load_backbone
from tests.train.tiny import command, tiny_config


def state(out: Path, prefix: str = "") -> dict[str, Tensor]:
    return read_tensors(step_folders(out)[-1] / "state", prefix=prefix)


def start_of(**changes: object) -> dict[str, Tensor]:
    """The tensors of a run before its first step."""
    model = SSLMetaArch(tiny_config(**changes))
    model.init_weights(torch.Generator().manual_seed(0))
    return {k: v.clone() for k, v in model.state_dict().items()}


def moved(out: Path, start: dict[str, Tensor]) -> set[str]:
    now = state(out)
    return {name for name, tensor in start.items() if name in now and not torch.equal(now[name], tensor)}


def assert_resumes_bit_for_bit(tmp_path: Path, until: int, stop: int, **changes: object) -> Path:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(whole, train__max_steps=until, **changes)) == 0
    for steps in (stop, until):
        assert main(command(broken, train__max_steps=steps, **changes)) == 0
    assert digest(state(broken)) == digest(state(whole))
    return whole


WARMUP: dict[str, object] = {"head_warmup__when": "always", "head_warmup__steps": 3, "optim__warmup_epochs": 0}


def cut_back(out: Path, step: int) -> None:
    """The run as it was when it had done ``step`` steps."""
    for folder in step_folders(out):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def test_in_a_head_warmup_backbone_and_its_ema_stand_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = start_of()
    assert main(command(tmp_path, train__max_steps=4, checkpointing__period=3, **WARMUP)) == 0
    assert "train alone for 3 steps (head_warmup.when=always)" in capsys.readouterr().out
    assert {f"{side}.backbone.blocks.0.attn.qkv.weight" for side in ("student", "model_ema")} <= moved(tmp_path, start)
    cut_back(tmp_path, 3)
    assert not {name for name in moved(tmp_path, start) if ".backbone." in name}
    assert {"student.dino_head.mlp.0.weight", "model_ema.ibot_head.mlp.0.weight"} <= moved(tmp_path, start)


def test_a_run_that_ends_in_its_head_warmup_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path / "out", train__max_steps=3, **WARMUP)) == 78
    assert "head_warmup.steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_stopped_in_its_head_warmup_continues_bit_for_bit(tmp_path: Path) -> None:
    words = {"train__max_steps": 5, "checkpointing__period": 2, **WARMUP}
    assert main(command(tmp_path, **words)) == 0
    whole = digest(state(tmp_path))
    cut_back(tmp_path, 2)
    assert main(command(tmp_path, **words)) == 0
    assert digest(state(tmp_path)) == whole


@pytest.mark.parametrize(("when", "missing", "steps"), [
    ("heads_missing", True, 7), ("heads_missing", False, 0), ("always", False, 7), ("never", True, 0),
])  # fmt: skip
def test_heads_warm_up_when_they_are_missing_or_as_said(when: str, missing: bool, steps: int) -> None:
    model = SSLMetaArch(tiny_config(head_warmup__when=when, head_warmup__steps=7))
    model.heads_missing = missing
    assert model.head_warmup_steps == steps


def test_a_run_from_a_backbone_keeps_it_until_its_heads_are_warm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "first", train__max_steps=2, optim__warmup_epochs=0)) == 0
    weights = step_folders(tmp_path / "first")[-1] / "backbone.safetensors"
    given: dict[str, object] = {
        "student__pretrained_weights": weights, "head_warmup__steps": 3, "feature_anchor__enabled": "true",
        "evaluation__drift__enabled": "true", "evaluation__drift__images": 4, "train__seed": 5,
        "evaluation__pictures": "false",
    }  # fmt: skip
    out, words = tmp_path / "second", {"train__max_steps": 5, "checkpointing__period": 1, **given}
    words |= {"checkpointing__max_to_keep": "null", "evaluation__drift__period": 3}
    assert main(command(out, **words)) == 0
    now = state(out, prefix="student.backbone.")
    cut_back(out, 2)
    assert main(command(out, **words)) == 0  # resumed in its warm-up, which goes on
    assert capsys.readouterr().out.count("train alone for 3 steps (head_warmup.when=heads_missing)") == 2
    cut_back(out, 3)
    start = dict(load_backbone(weights).named_parameters())
    for side in ("student", "model_ema", "anchor_teacher"):
        then = state(out, prefix=f"{side}.backbone.")
        assert all(torch.equal(then[name], parameter) for name, parameter in start.items()), side
    assert [row["drift_cls_cosine"] for row in evaluations(out) if row["step"] == 3] == [pytest.approx(1.0)]
    assert any(not torch.equal(now[name], parameter) for name, parameter in start.items())


def test_frozen_blocks_stand_still_and_the_others_keep_their_learning_rate(tmp_path: Path) -> None:
    start = start_of()
    assert main(command(tmp_path, train__max_steps=3, student__freeze_blocks=1)) == 0
    changed = {name.removeprefix("student.backbone.") for name in moved(tmp_path, start) if "student.backbone" in name}
    assert not {n for n in changed if n.startswith(("patch_embed", "cls_token", "storage", "mask_token", "blocks.0"))}
    assert {"blocks.1.attn.qkv.weight", "norm.weight"} <= changed
    free, frozen = SSLMetaArch(tiny_config()), SSLMetaArch(tiny_config(student__freeze_blocks=1))
    prepare_to_continue(frozen)
    rates = [
        {name: group.lr_multiplier for group in model.get_params_groups() for name in group.names}
        for model in (free, frozen)
    ]
    assert rates[1].items() <= rates[0].items()


def test_more_frozen_blocks_than_there_are_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path / "out", student__freeze_blocks=3)) == 78
    assert "student.freeze_blocks: 3 holds all 2 blocks" in capsys.readouterr().err


LORA: dict[str, object] = {"lora__enabled": "true", "lora__rank": 2, "optim__warmup_epochs": 0}


def test_with_lora_only_adapters_and_heads_train_and_the_ema_follows_the_merged_weights(tmp_path: Path) -> None:
    follow = {"teacher__momentum_teacher": 0.0, "teacher__final_momentum_teacher": 0.0}  # EMA == student
    start = start_of()
    out = assert_resumes_bit_for_bit(tmp_path, 3, 2, **LORA, **follow)
    now = state(out)
    assert not {name for name in moved(out, start) if name.startswith("student.backbone.")}
    trained = {n.removeprefix("optimizer.state.student.").rpartition(".")[0] for n in now if n.startswith("optimizer.")}
    assert {n for n in trained if n.startswith("backbone.")} == {
        f"backbone.blocks.{i}.{layer}.lora.{side}"
        for i in (0, 1) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for side in "ab"
    }  # fmt: skip
    model = SSLMetaArch(tiny_config(**LORA, **follow))
    model.init_weights(torch.Generator().manual_seed(0))
    prepare_to_continue(model)
    model.load_state_dict({k: v for k, v in now.items() if not k.startswith("optimizer.")})
    merged, exported = merged_parameters(model.student["backbone"]), load_backbone(out)
    for name, parameter in exported.named_parameters():
        torch.testing.assert_close(parameter, merged[name], rtol=1e-6, atol=1e-6)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    adapted = model.student["backbone"].eval()(images)
    assert (exported(images) - adapted).norm() / adapted.norm() < 1e-6
    assert not torch.equal(merged["blocks.0.attn.qkv.weight"], start["student.backbone.blocks.0.attn.qkv.weight"])


# A learning rate that ruins features in a few steps, unless they are held.
FAST: dict[str, object] = {
    "optim__lr": 0.02, "optim__scaling_rule": "none", "optim__warmup_epochs": 0, "student__layerscale": 1.0,
    "teacher__momentum_teacher": 0.0, "teacher__final_momentum_teacher": 0.0, "student__drop_path_rate": 0.0,
    "evaluation__drift__enabled": "true", "evaluation__drift__images": 16, "evaluation__pictures": "false",
}  # fmt: skip
ANCHOR: dict[str, object] = {"feature_anchor__enabled": "true", "feature_anchor__loss_weight": 100.0}


def evaluations(out: Path) -> list[dict[str, Any]]:
    return read_rows(out / "evaluation.jsonl")


def test_the_anchor_holds_features_and_a_resumed_run_has_the_same_anchor(tmp_path: Path) -> None:
    out = assert_resumes_bit_for_bit(tmp_path, 6, 3, **FAST, **ANCHOR)
    assert main(command(tmp_path / "free", train__max_steps=6, **FAST)) == 0
    (first, held), (_, free) = evaluations(out), evaluations(tmp_path / "free")
    for kind in ("cls", "patch"):
        assert first[f"drift_{kind}_cosine"] == pytest.approx(1.0)
        assert 1 - held[f"drift_{kind}_cosine"] < 0.5 * (1 - free[f"drift_{kind}_cosine"])
    anchor = state(out, prefix="anchor_teacher.backbone.")
    start = start_of(**FAST)
    assert all(torch.equal(tensor, start[f"model_ema.backbone.{name}"]) for name, tensor in anchor.items())
    assert anchor


def test_without_masks_the_anchor_term_begins_at_zero(tmp_path: Path) -> None:
    same = {
        "ibot__mask_sample_probability": 0.0,
        "student__drop_path_rate": 0.0,
        "feature_anchor__tokens": "all",
        "student__layerscale": 1.0,
    }
    assert main(command(tmp_path, train__max_steps=4, feature_anchor__enabled="true", **same)) == 0
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[0]["feature_anchor_loss"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["feature_anchor_loss"] > 1e-4
    assert rows[-1]["feature_anchor_cls_cosine"] < 1


def test_what_was_measured_after_the_step_a_run_goes_back_to_is_measured_again(tmp_path: Path) -> None:
    rule = {**FAST, "train__max_steps": 6, "evaluation__drift__period": 2, "logging__csv": "true"}
    assert main(command(tmp_path, **rule)) == 0
    before = evaluations(tmp_path)
    with (tmp_path / "evaluation.jsonl").open("a") as file:
        file.write('{"step": 7, "cut sh')
    back = ["--resume-from", str(tmp_path / "ckpt" / "step-00000003")]
    assert main(command(tmp_path, *back, data__skip_steps="[[3,3]]", **rule)) == 0
    after = evaluations(tmp_path)
    assert [row["step"] for row in after] == [0, 2, 4, 6]
    assert after[:2] == before[:2]
    assert all(a != b for a, b in zip(after[2:], before[2:], strict=True)), "a step less was learnt from"
    assert len((tmp_path / "evaluation.csv").read_text().splitlines()) == 1 + 4


def test_a_run_that_forgets_is_saved_and_stopped_until_the_limit_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {**FAST, "train__max_steps": 6, "evaluation__drift__period": 2}
    assert main(command(tmp_path, evaluation__drift__stop_below=0.999, **rule)) == 71
    said = capsys.readouterr().out
    assert "stopped at step 2, saved: the CLS tokens have a mean cosine of " in said
    assert "below evaluation.drift.stop_below 0.999" in said
    assert step_folders(tmp_path)[-1].name == "step-00000002"
    assert main(command(tmp_path, evaluation__drift__stop_below=0.999, **rule)) == 71, "nothing has changed"
    assert main(command(tmp_path, **rule)) == 0
    assert [row["step"] for row in evaluations(tmp_path)] == [0, 2, 4, 6]


def test_the_curves_of_drift_are_drawn(tmp_path: Path) -> None:
    drawn = {**FAST, "evaluation__pictures": "true", "evaluation__drift__period": 1}
    assert main(command(tmp_path, train__max_steps=2, **drawn)) == 0
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_run_whose_start_is_gone_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, train__max_steps=1, **FAST)) == 0
    (tmp_path / "drift_start.safetensors").unlink()
    assert main(command(tmp_path, train__max_steps=2, **FAST)) == 78
    assert "drift_start.safetensors: the features of step 0 are gone" in capsys.readouterr().err


def test_a_fall_of_knn_accuracy_is_measured_from_the_first_one() -> None:
    cfg = tiny_config(evaluation__knn__train="a", evaluation__knn__test="b", evaluation__knn__period=1,
                      evaluation__knn__max_drop=0.02)  # fmt: skip
    rows = [{"step": i, "knn_accuracy": accuracy} for i, accuracy in enumerate((0.80, 0.85, 0.781, 0.779))]
    assert [Knn(cfg).stop(rows[: n + 1]) is None for n in range(4)] == [True, True, True, False]
    assert "fell from 80.0 % to 77.9 %, by more than evaluation.knn.max_drop 0.02" in str(Knn(cfg).stop(rows))


def test_what_a_start_without_a_checkpoint_measured_is_not_this_runs(tmp_path: Path) -> None:
    """It was of other weights, perhaps of another width: limits would be held against them."""
    drift = {"evaluation__drift__enabled": "true", "evaluation__drift__images": 8, "evaluation__drift__period": 1}
    settings = {**drift, "evaluation__pictures": "false", "train__max_steps": 2, "optim__warmup_epochs": 0}
    out = tmp_path / "run"
    assert main(command(out, **settings)) == 0
    shutil.rmtree(out / "ckpt")  # as if it had been killed before its first save
    assert main(command(out, student__embed_dim=32, student__num_heads=1, **settings)) == 0
    assert [row["step"] for row in read_rows(out / "evaluation.jsonl")] == [0, 1, 2]
    assert read_rows(out / "evaluation.jsonl")[0]["drift_cls_cosine"] == pytest.approx(1.0)
    aside = ["drift_start.safetensors", "evaluation.jsonl", "metrics.jsonl"]
    assert sorted(p.name for p in (out / "before-1").iterdir()) == aside
