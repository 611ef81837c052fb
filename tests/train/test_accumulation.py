"""A step of several small batches has the losses and gradients of one large batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.contracts import CropBatch
from dinov3.data.loader import CropLoader
from dinov3.data.sources import parse_dataset
from dinov3.engine import trainer
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.accumulation import accumulate, joined_batch, kept_logits
from dinov3.train.command import main
from dinov3.train.ssl_meta_arch import SSLMetaArch
from tests.train.tiny import command, tiny_config

# LayerScale 1: with 1e-5 all class tokens are almost equal at first, and KoLeo's log of their distances turns the last
# bit of a sum into per cents.
PLAIN = {"student__drop_path_rate": 0.0, "student__layerscale": 1.0, "train__dataset_path": "Synthetic:n=64:size=40"}
STEP = {"teacher_temp": 0.05, "iteration": 3}
GRAM = {"gram__use_loss": "true", "gram__ema_teacher": "true"}
DA3 = {"da3__enabled": "true", "da3__random_init": "true", "da3__variant": "small", "da3__dtype": "fp32"}


def setting(batch: int, parts: int, **changes: object) -> tuple[SSLMetaArch, list[CropBatch]]:
    """A model whose student has left its teacher, and the batches of one optimizer step."""
    cfg = tiny_config(train__batch_size_per_gpu=batch, train__gradient_accumulation_steps=parts, **{**PLAIN, **changes})
    model = SSLMetaArch(cfg)
    model.init_weights(torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.student.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=noise))
    shared: dict[str, Any] = {"rank": 0, "world_size": 1, "device": torch.device("cpu"), "dtype": torch.float32}
    with CropLoader(cfg, parse_dataset(cfg.train.dataset_path), position=0, **shared) as loader:
        return model, [next(loader) for _ in range(parts)]


def step(batch: int, parts: int, **changes: object) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
    model, batches = setting(batch, parts, **changes)
    model.before_step(STEP["iteration"])  # type: ignore[arg-type]
    total, terms = accumulate(model, batches, **STEP)  # type: ignore[arg-type]
    for objective in model.objectives:
        objective.after_step()
    gradients = {n: p.grad for n, p in model.student.named_parameters() if p.grad is not None}
    buffers = {n: b for n, b in model.named_buffers() if n.endswith("center")}
    return total, terms, {**gradients, **buffers}


CASES: dict[str, dict[str, object]] = {
    "sinkhorn": {},
    "centering": {"train__centering": "centering"},
    "no koleo": {"dino__koleo_loss_weight": 0.0},
    "gram of images": {**GRAM, "gram__img_level": "true"},
    "gram of the batch": {**GRAM, "gram__img_level": "false", "gram__tokens_used": "unmasked"},
    "feature anchor": {"feature_anchor__enabled": "true"},
    "da3, tokens": DA3,
    "da3, images": {**DA3, "da3__weighting": "per_image"},
}


@pytest.mark.parametrize("name", CASES)
def test_four_batches_of_sixteen_are_one_of_sixty_four(name: str) -> None:
    n, parts = (64, 4) if name == "sinkhorn" else (16, 4)
    total, terms, tensors = step(n // parts, parts, **CASES[name])
    expected_total, expected_terms, expected = step(n, 1, **CASES[name])
    torch.testing.assert_close(total, expected_total, rtol=1e-5, atol=1e-6)
    assert terms.keys() == expected_terms.keys()
    for key, value in expected_terms.items():
        if key.endswith(("_prototype_usage", "_teacher_entropy", "cls_spread")):
            continue  # of each part by itself, to look at; no loss
        torch.testing.assert_close(torch.as_tensor(terms[key]), torch.as_tensor(value), rtol=1e-5, atol=1e-6, msg=key)
    assert tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        error = (tensors[key] - tensor).norm() / tensor.norm().clamp_min(1e-6)
        # student and teacher are close in the other cases: their gradients are small differences of large numbers
        assert error < (1e-5 if n == 64 else 1e-4), f"{key}: {error:.1e}"


def test_batches_that_know_nothing_of_each_other_have_other_gradients() -> None:
    _, _, apart = step(4, 4, train__accumulation="per_micro_batch")
    _, _, whole = step(16, 1)
    name = "backbone.blocks.0.attn.qkv.weight"
    assert (apart[name] - whole[name]).norm() / whole[name].norm() > 1e-3


@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "centering"])
def test_such_batches_are_averaged(centering: str) -> None:
    changes = {"train__accumulation": "per_micro_batch", "train__centering": centering}
    total, terms, tensors = step(4, 2, **changes)
    model, batches = setting(4, 2, **changes)
    singles = [model.forward_backward(batch, **STEP) for batch in batches]  # type: ignore[arg-type]
    torch.testing.assert_close(total, (singles[0][0] + singles[1][0]) / 2)
    torch.testing.assert_close(terms["ibot_loss"], (singles[0][1]["ibot_loss"] + singles[1][1]["ibot_loss"]) / 2)
    for name, p in model.student.named_parameters():
        torch.testing.assert_close(tensors[name], p.grad / 2)  # type: ignore[operator]
    assert (terms["local_batch_size"], terms["global_batch_size"]) == (8.0, 8.0)
    if centering == "centering":
        assert torch.all(tensors["dino_loss.center"] != 0)


def test_both_passes_drop_the_same_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = setting(4, 2, student__drop_path_rate=0.5)
    seen = []
    real = model.get_student_features

    def spy(batch: CropBatch) -> Any:
        features = real(batch)
        seen.append(features[0].cls.detach())
        return features

    monkeypatch.setattr(model, "get_student_features", spy)
    accumulate(model, batches, **STEP)  # type: ignore[arg-type]
    first, second, again_first, again_second = seen
    assert torch.equal(first, again_first)
    assert torch.equal(second, again_second)


def test_joined_indices_name_the_masked_patches_of_the_large_batch() -> None:
    _, parts = setting(4, 3)
    _, (whole,) = setting(12, 1)
    batch = joined_batch(parts)
    assert torch.equal(batch.collated_masks, whole.collated_masks)
    order = batch.mask_indices_list.argsort()
    assert torch.equal(batch.mask_indices_list[order], whole.mask_indices_list)
    assert torch.equal(batch.masks_weight[order], whole.masks_weight)
    assert int(batch.n_masked_patches) == int(whole.n_masked_patches)
    assert (batch.batch_size, batch.global_batch_size) == (12, 12)


KEYS = ("total_loss", "dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss", "koleo_loss", "samples", "lr")


def numbers(out: Path) -> Tensor:
    return torch.tensor([[row[k] for k in KEYS] for row in read_rows(out / "metrics.jsonl")], dtype=torch.float64)


TWO_OF_FOUR = {**PLAIN, "train__batch_size_per_gpu": 4, "train__gradient_accumulation_steps": 2, "train__max_steps": 5}


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("accumulated")
    assert main(command(out, **TWO_OF_FOUR)) == 0
    return out


def test_a_run_logs_what_a_run_with_the_large_batch_logs(
    accumulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, **PLAIN, train__max_steps=5)) == 0
    assert "batch 8 each, effective batch 8" in capsys.readouterr().out
    torch.testing.assert_close(numbers(accumulated), numbers(tmp_path), rtol=1e-4, atol=1e-6)


def test_a_resumed_run_is_bit_identical(accumulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for until in (2, 5):
        assert main(command(tmp_path, **{**TWO_OF_FOUR, "train__max_steps": until})) == 0
    assert "batch 4 each x 2 accumulated (exact, keeps 0.0 GB of logits), effective batch 8" in capsys.readouterr().out
    assert torch.equal(numbers(tmp_path), numbers(accumulated))
    states = [digest(read_tensors(step_folders(out)[-1] / "state", prefix="")) for out in (tmp_path, accumulated)]
    assert states[0] == states[1]


def test_the_logits_kept_are_those_of_all_crops_and_all_masked_patches() -> None:
    cfg = tiny_config(**{**PLAIN, "train__batch_size_per_gpu": 4, "train__gradient_accumulation_steps": 3})
    _, parts = setting(4, 3)
    masked = sum(int(batch.n_masked_patches) for batch in parts)
    assert kept_logits(cfg, 2) == 2 * (2 * 12 * 64 + masked * 48)


def test_one_bad_part_skips_the_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {}
    real = SSLMetaArch.compute_losses

    def bad(self: SSLMetaArch, context: Any, objectives: Any = None) -> Any:
        total, terms = real(self, context, objectives)
        if context.iteration == 1 and bool((context.batch.sample_ids is not None) and 12 in context.batch.sample_ids):
            total = total * torch.nan  # of the second part of the second step only
        return total, terms

    def watched(*args: Any, **kwargs: Any) -> Any:
        digests[kwargs["step"]] = digest(dict(args[0].model.state_dict()))
        return real_step(*args, **kwargs)

    real_step = trainer.train_step
    monkeypatch.setattr(SSLMetaArch, "compute_losses", bad)
    monkeypatch.setattr(trainer, "train_step", watched)
    assert main(command(tmp_path, **{**TWO_OF_FOUR, "train__max_steps": 4})) == 0
    assert digests[2] == digests[1]
    assert digests[3] != digests[2]
    assert [row["skipped_steps"] for row in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 1, 1]
