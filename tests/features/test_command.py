from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone


@pytest.fixture
def weights(tmp_path: Path) -> str:
    model = DinoVisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2)
    model.init_weights(torch.Generator().manual_seed(0))
    (tmp_path / "weights").mkdir()
    write_backbone(tmp_path / "weights", model.eval(), {"mean": [0.5] * 3, "std": [0.2] * 3, "size": 16})
    return str(tmp_path / "weights")


def features(weights: str, out: Path, *more: str) -> int:
    return main(["features", "--weights", weights, "--data", "Synthetic:n=5:size=24", "--out", str(out), *more])


def test_the_second_call_finds_what_the_first_wrote(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert features(weights, tmp_path / "out") == 0
    assert "5 images in" in (first := capsys.readouterr().out)
    assert "(computed)" in first
    assert features(weights, tmp_path / "out") == 0
    assert capsys.readouterr().out == first.replace("(computed)", "(already there)")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--size", "20"], "use 16 or 24"),
        (["--weights", "/nowhere"], "/nowhere"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--format", "npy", "--dtype", "bf16"], "npy has no bf16"),
        (["--preset", "nonsense"], "nonsense"),
        (["--batch-size", "0"], "batch_size 0: at least 1"),
        (["--compute-dtype", "fp99"], "error: dtype 'fp99'"),
        (["--device", "cuda:99"], "cuda:99: torch sees"),
        (["--device", "toaster"], "toaster: choose"),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_nothing(
    weights: str, tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert features(weights, tmp_path / "out", *more) == 78
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more", [["features"], ["features", "--layout", "webdataset", "--pool", "patches"], ["dit", "extract"]]
)
def test_features_do_not_go_into_the_folder_of_the_images(
    more: list[str], weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(tmp_path / "photos" / "1.png")
    out = tmp_path / "photos" / "features"
    assert main([*more, "--weights", weights, "--data", str(tmp_path / "photos"), "--out", str(out)]) == 78
    assert f"{out}: lies inside the images" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("command", ["features", "viz"])
def test_images_of_other_channels_are_one_line_that_names_the_first(
    weights: str, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "five.h5", "w") as file:
        file["images"] = np.zeros((4, 20, 20, 5), np.uint8)
    words = ["viz", "pca", "--size", "16", "--out", str(tmp_path / "x.png")]
    words = words if command == "viz" else ["features", "--out", str(tmp_path / "out")]
    assert main([*words, "--weights", weights, "--data", str(tmp_path / "five.h5")]) == 78
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/five.h5")
    assert "an image of 5 channels: this backbone takes 3" in error
