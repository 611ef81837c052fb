"""F24: a teacher's weights fit in every name and shape, or the run does not begin and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.train.command import main
from dinov3.weights.export import export
from tests.faults.conftest import Reference
from tests.train.tiny import command

GRAM = {"gram__use_loss": "true", "train__max_steps": 1, "evaluation__pictures": "false"}
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The backbone of a run of the same student, as the official files have it."""
    out = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    export(reference(1), out)
    content: Weights = torch.load(out, weights_only=True)
    return content


@pytest.mark.parametrize(
    "prefix", ["", "backbone.", "teacher.backbone.", "module.backbone.", "module.teacher.backbone."]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_f24_known_prefixes_and_half_precision_are_read_whole(
    weights: Weights, tmp_path: Path, prefix: str, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "run", tmp_path / "teacher.pth"
    torch.save({prefix + k: v.to(dtype) for k, v in weights.items()}, file)
    assert main(command(out, gram__ckpt=file, **GRAM)) == 0
    assert f": {len(weights)} tensors into backbone" in capsys.readouterr().out
    loaded = read_tensors(step_folders(out)[-1] / "state", prefix="gram_teacher.backbone.")
    assert all(torch.equal(loaded[k], v.to(dtype).float()) for k, v in weights.items())


@pytest.mark.parametrize("kind", ["run folder", "safetensors"])
def test_f24_a_run_folder_and_safetensors_are_read_too(
    reference: Reference, weights: Weights, tmp_path: Path, kind: str
) -> None:
    file = reference(1)
    if kind == "safetensors":
        file = tmp_path / "teacher.safetensors"
        save_file(weights, file)
    assert main(command(tmp_path / "run", gram__ckpt=file, **GRAM)) == 0


def without(weights: Weights, *names: str) -> Weights:
    return {k: v for k, v in weights.items() if k not in names}


WRONG: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "another width": (
        lambda w: {k: v[:32] for k, v in w.items()},
        "student.embed_dim: 64, the file has 32: set it to 32",
    ),
    "a key too few": (lambda w: without(w, "norm.weight"), "1 missing ['backbone.norm.weight'], 0 unexpected"),
    "a key too many": (
        lambda w: {**w, "extra.weight": torch.zeros(2)},
        "0 missing [], 1 unexpected ['backbone.extra.weight']",
    ),
    "a depth too many": (
        lambda w: {**w, **{k.replace("blocks.1.", "blocks.2."): v for k, v in w.items() if k.startswith("blocks.1.")}},
        "unexpected ['backbone.blocks.2.",
    ),
    "another patch": (
        lambda w: {**w, "patch_embed.proj.weight": torch.zeros(64, 3, 4, 4)},
        "patch_embed.proj.weight (64, 3, 4, 4), model (64, 3, 8, 8)",
    ),
    "nan": (
        lambda w: {**w, "norm.weight": w["norm.weight"] * torch.nan},
        "norm.weight is not a plain tensor of finite",
    ),
    "two unknown prefixes": (
        lambda w: {f"{'body' if n % 2 else 'trunk'}.{k}": v for n, (k, v) in enumerate(w.items())},
        "no layout known here",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_f24_weights_that_do_not_fit_are_one_line_with_names_and_shapes(
    weights: Weights, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = WRONG[wrong]
    out, file = tmp_path / "run", tmp_path / "teacher.pth"
    torch.save({k: v.contiguous() for k, v in change(weights).items()}, file)
    assert main(command(out, gram__ckpt=file, **GRAM)) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(file) in error
    assert message in error
    assert error.count("model (") <= 5, "no more than five names of a kind"
    assert not out.exists()


def test_f24_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(command(out, gram__ckpt=tmp_path / "none.pth", **GRAM)) == 78
    assert f"{tmp_path / 'none.pth'}: no such file" in capsys.readouterr().err
    assert not out.exists()
