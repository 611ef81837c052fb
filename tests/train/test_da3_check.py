from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from dinov3 import cli
from dinov3.models.da3 import VARIANTS, DA3Spec
from tests.train.tiny import overrides

ON = {"da3__enabled": "true", "da3__random_init": "true", "da3__variant": "small", "da3__projector_hidden_dim": 64}


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "small", DA3Spec(32, 4, 2, alt_start=2))


def test_one_batch_is_described_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, picture = tmp_path / "tiny.yaml", tmp_path / "new" / "da3.png"
    config.write_text("da3: {enabled: true}\n")
    arguments = ["da3-check", "--config-file", str(config), "--out", str(picture), *overrides(**ON)]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "da3-small, target global, random weights" in text
    assert "clean crops [16, 3, 56, 56] -> grid 4 x 4, resize_input -> tokens [16, 16, 32]" in text
    assert "global crops [16, 3, 32, 32] -> grid 4 x 4, patches [16, 16, 64]" in text
    mean, std = map(float, re.search(r"cosine .* mean (-?[\d.]+), std ([\d.]+)", text).groups())  # type: ignore[union-attr]
    loss = float(re.search(r"loss +([\d.]+), weight 1", text)[1])  # type: ignore[index]
    assert abs(mean) < 0.3
    assert 0 < std < 1
    assert loss == pytest.approx(1 - mean, abs=2e-4)
    projector, backbone = re.search(r"da3_projector ([\d.e+]+), backbone ([\d.e+]+), teacher none", text).groups()  # type: ignore[union-attr]
    assert float(projector) > 0
    assert float(backbone) > 0
    assert f"picture   {picture}" in text
    assert Image.open(picture).height > Image.open(picture).width > 800


def test_it_says_the_same_twice_and_leaves_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert cli.main(["da3-check", *overrides(**ON)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "picture" not in outputs[0]
    assert list(tmp_path.iterdir()) == []


def test_interpolation_is_told_from_equal_grids(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {**ON, "da3__grid_mode": "interpolate_tokens", "da3__teacher_size": 84, "da3__loss_on": "all"}
    assert cli.main(["da3-check", *overrides(**changes)]) == 0
    assert "grid 6 x 6, interpolate_tokens -> tokens [16, 16, 32]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"da3__enabled": "false"}, "command line: da3.enabled: false: set it to true, there is nothing to check"),
        ({"da3__random_init": "false"}, "da3.ckpt_path is empty: download config.json and model.safetensors"),
        ({"da3__teacher_size": 70}, "da3.teacher_size: 70 gives the teacher a grid of 5, the student's is 4: use 56"),
        ({"da3__embed_dim": 7}, "da3.embed_dim is 7, but variant 'small' with target 'global' returns 32"),
        ({"train__dataset_path": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"da3__varaint": "small"}, "da3.varaint: unknown key (did you mean da3.variant?)"),
    ],
)
def test_what_cannot_work_is_one_line_and_78(
    changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["da3-check", *overrides(**{**ON, **changes})]) == 78
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_gradient_that_is_not_finite_is_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dinov3.train import da3_check

    monkeypatch.setattr(da3_check, "gradient_norm", lambda _: float("inf"))
    assert cli.main(["da3-check", *overrides(**ON)]) == 70
    assert capsys.readouterr().err == "error: the loss or a gradient is not finite\n"
